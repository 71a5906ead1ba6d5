"""OpenAI's shape of an error: `{"error": {"message", "type", "param", "code"}}`.

Which shape a client gets depends on the path alone, so that it also holds for errors of the middleware.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from service.errors import Problem

PREFIX = "/v1/images"

_CODES = {"key_invalid": "invalid_api_key", "rate_limited": "rate_limit_exceeded", "unknown_model": "model_not_found"}
"""OpenAI's own names, where it has one that its clients compare with."""


def in_openai_shape(path: str) -> bool:
    """path: without the part that a proxy strips."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def status_of(problem: Problem) -> int:
    """OpenAI answers 400 for every invalid field, and 404 for an unknown model."""
    if problem.code == "unknown_model":
        return 404
    return 400 if problem.status == 422 else problem.status


def error_body(problem: Problem) -> dict[str, Any]:
    return {
        "error": {
            "message": problem.detail,
            "type": _type_of(status_of(problem)),
            "param": problem.errors[0].field or None if problem.errors else None,
            "code": _CODES.get(problem.code, problem.code),
        }
    }


def _type_of(status: int) -> str:
    if status >= 500:
        return "server_error"
    return "rate_limit_error" if status == 429 else "invalid_request_error"


@contextlib.contextmanager
def fields_renamed(names: Mapping[str, str]) -> Iterator[None]:
    """A Problem with a task's field names the field that the client sent. names: task's → client's."""
    try:
        yield
    except Problem as problem:
        for error in problem.errors:
            if error.field in names:
                problem.detail = problem.detail.replace(f"{error.field}: ", f"{names[error.field]}: ", 1)
        problem.errors = tuple(replace(error, field=names.get(error.field, error.field)) for error in problem.errors)
        raise

"""Errors that clients see: a status, a code and the invalid fields. Independent of the web framework."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

NEAREST = 5
"""The most suggestions that an error lists."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """An invalid field: its path, such as `order[3]`, and its place: body, query, path or header."""

    field: str
    message: str
    code: str = "invalid"
    place: str = "body"

    def to_json(self) -> dict[str, str]:
        return {"in": self.place, "field": self.field, "message": self.message, "code": self.code}


class Problem(Exception):
    """An error response. May be raised anywhere before the response has started."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})

    @classmethod
    def field(cls, field: str, message: str, code: str = "invalid", *, status: int = 422) -> Problem:
        """One field of the body is invalid."""
        return cls(status, code, f"{field}: {message}", errors=[FieldError(field, message, code)])


def queue_unavailable(error: Exception, retry_after: int) -> Problem:
    """Redis does not respond."""
    log.warning("redis: %s: %s", type(error).__name__, error)
    headers = {"Retry-After": str(retry_after)}
    return Problem(
        503, "queue_unavailable", "the queue can't be reached at the moment; try again later", headers=headers
    )


def draining(retry_after: int, more: str = "", headers: Mapping[str, str] | None = None) -> Problem:
    """The server is shutting down; a client should try another one. more: what happens to its job."""
    sent = {"Retry-After": str(retry_after), "Connection": "close", **(headers or {})}
    return Problem(503, "draining", f"this server is shutting down{more and '; '}{more}", headers=sent)


def unauthorized(code: str, detail: str) -> Problem:
    return Problem(401, code, detail, headers={"WWW-Authenticate": "Bearer"})


def no_such_field(name: str, known: Iterable[str]) -> str:
    """The message of an unknown field, with the name that resembles it most."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"no such field; did you mean {near[0]}?" if near else "no such field"


def did_you_mean(text: str, names: Iterable[str]) -> list[str]:
    """Names that are words of a text, that contain it or that resemble it, the best first. A name may appear twice."""
    names = list(names)
    words = f" {text} "
    near = sorted((name for name in names if len(name) > 2 and f" {name} " in words), key=len, reverse=True)
    near += [name for name in names if len(text) > 2 and text in name]
    return near + difflib.get_close_matches(text, names, n=2 * NEAREST, cutoff=0.5)

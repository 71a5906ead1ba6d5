"""Renders every error: what is wrong, in which field, and what would be right. As RFC 9457 problem+json, or in OpenAI's
shape under /v1/images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from redis.exceptions import RedisError
from starlette._utils import get_route_path  # the router's own idea of a path
from starlette.exceptions import HTTPException

from service import logs
from service.api.openai import errors as openai
from service.errors import FieldError, Problem, no_such_field, queue_unavailable

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

MOST_ERRORS = 20
"""An error response lists so many errors, and says how many more there are."""

MOST_LETTERS = 100
"""Of a field's name that only the client knows."""

# The codes of errors that the framework raises.
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "too_slow",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid",
    500: "internal_error",
    503: "unavailable",
}


# Pydantic reports an error for each member of a union, with the member's type as a step of the path.
_UNION_MEMBERS = frozenset({"int", "str", "constrained-str"})


class InvalidField(BaseModel):
    """One field of a request that is invalid."""

    in_: Literal["body", "query", "path", "header"] = Field(alias="in")
    field: str = Field(description="Its path, such as `order[3]`; empty: the whole body")
    message: str = Field(description="What is wrong, and what would be right")
    code: str


class ProblemDocument(BaseModel):
    """The body of every error response (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What is wrong, and what to do")
    instance: str = Field(description="The path of the request")
    code: str = Field(description="Which problem it is, for programs")
    request_id: str = Field(description="As in the header X-Request-ID and in the server's log")
    errors: list[InvalidField] = Field(default_factory=list, description="The invalid fields, the first ones if many")


# The schema itself is among the document's components (service/server/openapi.py).
_CONTENT = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}}}


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, for its OpenAPI description."""
    return {status: {"description": HTTPStatus(status).phrase, "content": _CONTENT} for status in statuses}


# Errors that every route may answer with.
RESPONSES = described(401, 403, 429, 500, 503) | {
    "default": {"description": "A problem (RFC 9457)", "content": _CONTENT}
}


def document(request: Request, problem: Problem) -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "instance": request.url.path,
        "code": problem.code,
        "request_id": getattr(request.state, "request_id", ""),
    }
    if problem.errors:
        body["errors"] = [error.to_json() for error in problem.errors]
    return body


def respond(request: Request, problem: Problem) -> JSONResponse:
    """The error response, in the shape that the clients of the request's path read."""
    logs.tell(code=problem.code)
    if openai.in_openai_shape(get_route_path(request.scope)):
        return JSONResponse(openai.error_body(problem), status_code=openai.status_of(problem), headers=problem.headers)
    return JSONResponse(
        document(request, problem), status_code=problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )


def too_large(limit: int, what: str = "the body of a request without a picture") -> Problem:
    return Problem(413, "too_large", f"{what} may have {limit} bytes at most")


def body_too_large(limit: int) -> Problem:
    """limit: the server's own."""
    return Problem(413, "too_large", f"a body may have {limit} bytes at most on this server (ARPG_MAX_BODY_BYTES)")


def gone() -> Problem:
    """The client has disconnected before its body was complete; it does not receive this."""
    return Problem(400, "bad_request", "the connection was closed before the body was complete")


def shortened(name: str) -> str:
    return name if len(name) <= MOST_LETTERS else f"{name[:MOST_LETTERS]}…"


def from_validation(
    errors: Sequence[Any], *, place: str | None = None, count: int | None = None, schema: type[BaseModel] | None = None
) -> Problem:
    """Pydantic's errors as one problem. It never contains the invalid input.

    count: how many errors there are, where `errors` are only the first ones. schema: whose fields are suggested in
    place of unknown ones.
    """
    found = _merged(_field_error(error, place) for error in errors)
    total = len(found) if count is None else len(found) + max(0, count - len(errors))
    found = found[:MOST_ERRORS]
    if schema is not None:
        known = [field.alias or name for name, field in schema.model_fields.items()]
        found = [replace(e, message=no_such_field(e.field, known)) if e.code == "extra_forbidden" else e for e in found]
    detail = "; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in found[:3])
    if total > 3:
        detail += f"; and {total - 3} more"
    if total > len(found):
        detail += f" ({total} in all; errors has the first {len(found)})"
    malformed = any(error.code == "json_invalid" for error in found)
    return Problem(400 if malformed else 422, "invalid_json" if malformed else "invalid", detail, errors=found)


def _merged(errors: Iterable[FieldError]) -> list[FieldError]:
    """A field of a union type has an error for each member: they become one error."""
    found: dict[tuple[str, str], FieldError] = {}
    for error in errors:
        key = (error.place, error.field)
        if key in found and error.message not in found[key].message:
            error = replace(found[key], message=f"{found[key].message}, or {error.message}")
        found[key] = error
    return list(found.values())


def _field_error(error: Mapping[str, Any], place: str | None) -> FieldError:
    location = list(error["loc"])
    if place is None:
        place = str(location.pop(0)) if location else "body"
    if error["type"] == "json_invalid":
        reason = error.get("ctx", {}).get("error", "")
        return FieldError("", f"the body is not JSON: {reason}", "json_invalid", place)
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step not in _UNION_MEMBERS:
            path += f".{step}" if path else str(step)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "no such field"
    return FieldError(shortened(path), message[:1].lower() + message[1:], error["type"], place)


def install(app: FastAPI, *, retry_after: int, max_body_bytes: int) -> None:
    """Renders every exception of the app as a problem. max_body_bytes: the limit, as an error tells it."""

    async def on_problem(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return respond(request, error)

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return respond(request, from_validation(error.errors()))

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = _CODES.get(error.status_code, "error")
        headers = dict(error.headers or {})
        detail = error.detail
        if error.status_code == 404:
            detail = f"{request.url.path} does not exist; see /docs"
        elif error.status_code == 413:
            detail = body_too_large(max_body_bytes).detail
        elif error.status_code == 405:
            if headers.get("Allow") == "GET":  # which answers HEAD too
                headers["Allow"] = "GET, HEAD"
            detail = f"{request.method} is not allowed here; allowed: {headers.get('Allow', 'see /docs')}"
        return respond(request, Problem(error.status_code, code, detail, headers=headers))

    async def on_redis(request: Request, error: Exception) -> JSONResponse:
        return respond(request, queue_unavailable(error, retry_after))

    async def on_anything(request: Request, error: Exception) -> JSONResponse:
        # uvicorn logs the traceback; the client gets the request id, which the log has too.
        identity = getattr(request.state, "request_id", "")
        log.error("request %s failed: %s", identity, type(error).__name__)
        detail = (
            f"an error of the server, not of your request; the operator can find it in the log as request {identity}"
        )
        # uvicorn closes the connection after an exception, so the client must not reuse it.
        return respond(request, Problem(500, "internal_error", detail, headers={"Connection": "close"}))

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RedisError, on_redis)
    app.add_exception_handler(Exception, on_anything)

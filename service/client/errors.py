"""What goes wrong, as exceptions. All of them are an `APIError`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

MOST_LETTERS = 200
"""Of an answer that is not the API's own, such as a proxy's."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """An invalid field of a request. field: its path, such as `order[3]`; empty: the whole body. message: what is
    wrong, and what would be right. place: body, query, path or header."""

    field: str
    message: str
    code: str
    place: str = "body"


class APIError(Exception):
    """message: what is wrong, and what to do. code: which error it is, for programs."""

    code = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class APIConnectionError(APIError):
    """No answer came, or the connection was lost before the whole answer had come."""

    code = "connection"


class APIStatusError(APIError):
    """The server refused the request. request_id: by which its operator finds the request in the log. retry_after: the
    seconds to wait before the request is repeated; None: the server named none."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str = "error",
        errors: tuple[FieldError, ...] = (),
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.errors = errors
        self.request_id = request_id
        self.retry_after = retry_after

    @property
    def field(self) -> str | None:
        """The first invalid field; None: the error is about none."""
        return self.errors[0].field if self.errors else None


class BadRequestError(APIStatusError):
    """400, 406, 413, 415, 422: the request must be changed; `field` says where. 422 `key_reused`: the idempotency key
    belongs to another request."""


class UnauthorizedError(APIStatusError):
    """401: the server needs an API key, or does not know this one."""


class ForbiddenError(APIStatusError):
    """403: the key does not allow it."""


class NotFoundError(APIStatusError):
    """404: there is no such job of this client, model or route."""


class ConflictError(APIStatusError):
    """409: the job's state does not allow this."""


class ExpiredError(APIStatusError):
    """410: the job, its events or its pictures are no longer kept."""


class TooManyRequestsError(APIStatusError):
    """429: the client is above its rate or its quota of jobs."""


class UnavailableError(APIStatusError):
    """502, 503, 504: the server, its queue or its workers can't take the request now."""


class ServerError(APIStatusError):
    """Another error of the server."""


_BY_STATUS: dict[int, type[APIStatusError]] = {
    **dict.fromkeys((400, 406, 413, 415, 422), BadRequestError),
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: ExpiredError,
    429: TooManyRequestsError,
    **dict.fromkeys((502, 503, 504), UnavailableError),
}


def error_of(response: httpx.Response) -> APIStatusError | None:
    """Of a response whose body was read; None: it is a success."""
    if response.is_success:
        return None
    try:
        problem = json.loads(response.content)
        return from_problem(problem, problem["detail"], response.status_code, _retry_after(response))
    except (ValueError, KeyError, TypeError):
        said = " ".join(response.text.split())[:MOST_LETTERS]
        message = f"{response.url} answered {response.status_code}, and not as this API does: {said or 'no text'}"
        return _class(response.status_code)(message, status=response.status_code)


def from_problem(problem: dict[str, Any], detail: str, status: int, retry_after: float | None = None) -> APIStatusError:
    """problem: RFC 9457, as a body or as the event `error` of a stream. Raises KeyError, TypeError if it is none."""
    errors = tuple(
        FieldError(error["field"], error["message"], error["code"], error.get("in", "body"))
        for error in problem.get("errors", ())
    )
    code, request_id = str(problem.get("code", "error")), str(problem.get("request_id", ""))
    return _class(status)(
        detail, status=status, code=code, errors=errors, request_id=request_id, retry_after=retry_after
    )


def _class(status: int) -> type[APIStatusError]:
    return _BY_STATUS.get(status, ServerError if status >= 500 else APIStatusError)


def _retry_after(response: httpx.Response) -> float | None:
    """In seconds; the API names no dates."""
    try:
        return float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return None

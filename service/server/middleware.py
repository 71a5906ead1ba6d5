"""What every response carries, errors included: a request id, security headers, a place in the metrics; and what
no browser may send here for another site.

Pure ASGI, outside everything else: a stream passes through untouched and a disconnect is still seen.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Sequence
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import MEDIA_TYPE, TOO_LARGE, respond
from service.errors import Problem
from service.metrics import Metrics

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class Envelope:
    """Wraps the whole app, its error pages too."""

    def __init__(self, app: ASGIApp, metrics: Metrics, origins: Sequence[str] = ()) -> None:
        self.app = app
        self.metrics = metrics
        self._origins = frozenset(origins)  # sites whose pages may ask

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = Headers(scope=scope)
        given = sent.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.perf_counter()
        replaced = False

        async def sending(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start":
                self._observe(scope, message["status"], time.perf_counter() - began)
                headers = MutableHeaders(scope=message)
                replaced = message["status"] == 413 and not headers.get("content-type", "").endswith("json")
                body = _too_large(scope, request_id) if replaced else b""
                if replaced:
                    headers["Content-Type"] = MEDIA_TYPE
                    headers["Content-Length"] = str(len(body))
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Content-Security-Policy"] = PAGE_POLICY
                await send(message)
                if replaced:
                    await send({"type": "http.response.body", "body": body})
            elif not replaced:
                await send(message)

        # A form on any page may post to a server on its reader's own machine; the browser tells us that it does.
        foreign = sent.get("sec-fetch-site") == "cross-site" and scope["method"] not in _SAFE
        foreign &= sent.get("origin") not in self._origins
        await (_refuse_foreign if foreign else self.app)(scope, receive, sending)

    def _observe(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.http_requests.labels(method, route, str(status)).inc()
        self.metrics.http_request_seconds.labels(method, route).observe(seconds)


class SlowBodies:
    """A body that does not arrive in time is refused, and its connection closed."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        deadline = time.monotonic() + self.seconds
        complete = scope["type"] != "http"

        async def receiving() -> Message:
            nonlocal complete
            if complete:  # what comes now is the client's going away
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                detail = f"the body did not arrive within {self.seconds:g} s"
                raise HTTPException(408, detail, {"Connection": "close"}) from None
            complete = not message.get("more_body", False)
            return message

        await self.app(scope, receiving, send)


def cross_origin(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Lets pages of these sites ask, with a key: no cookie is theirs to send."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("Authorization", "X-API-Key", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Prefer"),
        expose_headers=(
            "Location",
            "X-Job-ID",
            "X-Seed",
            "X-Request-ID",
            "Retry-After",
            "RateLimit",
            "RateLimit-Policy",
        ),
    )


_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = _SAFE | {"POST", "PUT", "DELETE", "PATCH"}


async def _refuse_foreign(scope: Scope, receive: Receive, send: Send) -> None:
    problem = Problem(403, "cross_site", "a page of another site can't ask for this; open this server's own page")
    await respond(Request(scope), problem)(scope, receive, send)


def _too_large(scope: Scope, request_id: str) -> bytes:
    """The framework's body limit answers in plain text, before any of our handlers is asked."""
    return json.dumps(
        {
            "type": "about:blank",
            "title": HTTPStatus(413).phrase,
            "status": 413,
            "detail": TOO_LARGE,
            "instance": scope["path"],
            "code": "too_large",
            "request_id": request_id,
        }
    ).encode()

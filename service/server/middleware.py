"""What every request gets: a request id, a line in the log, security headers, metrics, CORS; and HEAD for every GET.

Pure ASGI: an event stream passes through unbuffered, and the app sees when the client disconnects.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Sequence
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.api.problems import MOST_LETTERS, body_too_large, respond
from service.errors import Problem
from service.metrics import Metrics

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

QUIET = ("/healthz", "/readyz", "/metrics", "/playground/")
"""Paths that are asked for often, without anybody's interest in each request."""

_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"})


class RequestContextMiddleware:
    """The outermost: the request id and the headers are in error responses too."""

    def __init__(self, app: ASGIApp, metrics: Metrics, max_body_bytes: int) -> None:
        self.app = app
        self.metrics = metrics
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        answer = Answer()
        refusal: Response | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal refusal
            answer.note(message)
            if message["type"] == "http.response.start":
                self._observe(scope, message["status"], answer.first_byte_seconds)
                headers = MutableHeaders(scope=message)
                # The framework's body limit sends plain text before any of our handlers runs.
                if message["status"] == 413 and not headers.get("content-type", "").endswith("json"):
                    refusal = respond(Request(scope), body_too_large(self.max_body_bytes))
                    headers.update(refusal.headers)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Content-Security-Policy"] = PAGE_POLICY
                await send(message)
                if refusal is not None:
                    await send({"type": "http.response.body", "body": refusal.body})
            elif refusal is None:
                await send(message)

        with logs.about(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_headers)
            finally:
                answer.log(scope)

    def _observe(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.http_requests.labels(method, route, str(status)).inc()
        self.metrics.http_request_seconds.labels(method, route).observe(seconds)


class Answer:
    """What was sent of a response, and when."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.status = 0  # nothing was sent
        self.first_byte_seconds = 0.0
        self.complete = False

    def note(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.first_byte_seconds = time.perf_counter() - self._began
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True

    @property
    def outcome(self) -> str:
        if self.status >= 500 and self.status != 503:
            return "failed"
        if self.status >= 400:
            return "refused"
        return "answered" if self.complete else "disconnected"

    def log(self, scope: Scope) -> None:
        """The line of the request. Probes and the page's files are logged only at level debug, unless they fail."""
        path, seconds = quote(scope["path"])[:MOST_LETTERS], time.perf_counter() - self._began
        quiet = path.startswith(QUIET) and self.status < 400
        client = scope["state"].get("client")
        logs.line(
            "request",
            f"{scope['method']} {path}: {self.status} {self.outcome} in {seconds:.3f} s",
            level=logging.DEBUG if quiet else logging.INFO,
            method=scope["method"],
            path=path,
            route=getattr(scope.get("route"), "path", None),
            status=self.status or None,
            outcome=self.outcome,
            client=None if client is None else client.name,
            timings={"first_byte_seconds": self.first_byte_seconds, "total_seconds": seconds},
        )


class FramingMiddleware:
    """Refuses a request that tells the length of its body in two ways: a proxy in front may go by the other one, and
    take for a request of its own what is a body here (request smuggling)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and ("content-length" in headers or scope["http_version"] == "1.0"):
            detail = "send Content-Length or, in HTTP/1.1, Transfer-Encoding: not both"
            problem = Problem(400, "bad_request", detail, headers={"Connection": "close"})
            await respond(Request(scope), problem)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class HeadMiddleware:
    """Answers HEAD as GET, without the body. For the app, the client disconnects as soon as it has the headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        as_get = {**scope, "method": "GET"}

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                if "route" in as_get:  # for the metrics
                    scope["route"] = as_get["route"]
                await send(message)
                await send({"type": "http.response.body"})

        await self.app(as_get, receive, send_head)


def cors_middleware(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Lets pages of these sites send requests, with a key in a header. Their cookies are never accepted."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST", "DELETE"),
        allow_headers=(
            "Authorization",
            "X-API-Key",
            "Content-Type",
            "Idempotency-Key",
            "Last-Event-ID",
            "Prefer",
            "X-Start-Timeout",
            "X-Webhook-URL",
        ),
        expose_headers=(
            "Location",
            "X-Job-ID",
            "X-Seed",
            "X-Warnings",
            "X-Request-ID",
            "Retry-After",
            "RateLimit",
            "RateLimit-Policy",
        ),
    )

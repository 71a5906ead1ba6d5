"""uvicorn as this service runs it."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.health import scraped
from service.app import Service
from service.settings import Settings

SPARE_FILES = 256
"""Beside connections: Redis, the model's files, threads."""


class HTTPServer(uvicorn.Server):
    """Without uvicorn's own idea of signals: they are ours, and there is more than it to stop. And with an end to the
    patience with connections that don't say what they want, of which uvicorn's has none."""

    def __init__(self, config: uvicorn.Config, header_timeout: float) -> None:
        super().__init__(config)
        self._header_timeout = header_timeout
        # Since when a connection has been silent, and after which request.
        self._silent: dict[Any, tuple[float, Any]] = {}

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            self._close_silent()
        return await super().on_tick(counter)

    def _close_silent(self) -> None:
        now, silent = time.monotonic(), {}
        for connection in list(self.server_state.connections):
            request = getattr(connection, "cycle", None)
            if request is not None and not request.response_complete:
                continue
            since, after = self._silent.get(connection, (now, request))
            if after is not request:
                since = now
            if now - since > self._header_timeout:
                connection.transport.close()
            else:
                silent[connection] = (since, request)
        self._silent = silent


def http_server(app: ASGIApp, settings: Settings, *, root_path: str = "", lifespan: bool = True) -> HTTPServer:
    config = uvicorn.Config(
        app,
        root_path=root_path,
        log_config=None,
        access_log=False,
        lifespan="on" if lifespan else "off",
        http="h11",  # it bounds what it reads of a head
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=5,
        proxy_headers=False,
        log_level="warning",
        limit_concurrency=settings.max_connections + 1,  # it counts the one that is refused
    )
    return HTTPServer(config, settings.header_timeout)


def metrics_alone(app: Service) -> ASGIApp:
    """What the app measures, for a port of its own."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/metrics" and app.services is not None:
            await (await scraped(app.services))(scope, receive, send)
        else:
            await PlainTextResponse("there is only /metrics here", 404)(scope, receive, send)

    return answer


def allow_open_files(connections: int) -> None:
    """As far as the system lets us: a limit of connections is none where files run out before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))

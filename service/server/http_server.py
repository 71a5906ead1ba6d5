"""uvicorn as this service runs it."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.api.routes.health import scraped
from service.server.app import Service
from service.settings import Settings

SPARE_FILES = 256
"""Beside connections: Redis, the model's files, threads, the port for metrics."""


METRICS_CONNECTIONS = 64
"""Of the port that has metrics alone."""

AWAY_SECONDS = 5.0
"""Between two looks at who is silent: one each second is meant."""


class BoundedConnection(H11Protocol):
    """One of so many. When another one comes, whoever asks for nothing makes room: first those that were closed and do
    not take what is left for them, then those that never asked, then those between two requests; of each, the one
    silent longest. Where all are busy, it is the newcomer who goes."""

    silent_since = 0.0

    def __init__(self, *arguments: Any, limit: int, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._limit = limit

    @property
    def silent(self) -> bool:
        """It has no request that is being answered: none, half a one, or the last one's answer is out."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.silent_since = time.monotonic()
        if len(self.connections) <= self._limit:
            return
        # Who is closed already, with nothing left to send, is as good as gone.
        others = [
            one for one in self.connections if isinstance(one, BoundedConnection) and one is not self and not one._gone
        ]
        if len(others) < self._limit:
            return
        leaving = [one for one in others if one._place is not None]
        (min(leaving, key=lambda one: one._place or ()) if leaving else self).transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.cycle is not None and self.silent and not self.conn.trailing_data[0]:
            self.silent_since = time.monotonic()  # another request begins
        super().data_received(data)

    def on_response_complete(self) -> None:
        self.silent_since = time.monotonic()
        super().on_response_complete()

    @property
    def awaiting_request_head(self) -> bool:
        """It has begun with a request, the first or another one, and not said what it wants."""
        return self.silent and (self.cycle is None or bool(self.conn.trailing_data[0]))

    @property
    def _gone(self) -> bool:
        return self.transport.is_closing() and not self.transport.get_write_buffer_size()

    @property
    def _place(self) -> tuple[float, ...] | None:
        """Among those that may be closed, the lowest first; None: it is busy."""
        if self.transport.is_closing():
            return (0, self.silent_since)
        if self.cycle is None:
            return (1, self.silent_since)
        return (2, self.silent_since) if self.silent and not self.transport.get_write_buffer_size() else None


class HTTPServer(uvicorn.Server):
    """Without uvicorn's own idea of signals: they are ours, and there is more than it to stop. And with an end to the
    patience with connections that don't say what they want, of which uvicorn has none once a head has begun."""

    def __init__(self, config: uvicorn.Config, header_timeout: float) -> None:
        super().__init__(config)
        self._header_timeout = header_timeout
        self._looked_at = time.monotonic()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            self._close_silent()
        return await super().on_tick(counter)

    def _close_silent(self) -> None:
        before, now = self._looked_at, time.monotonic()
        self._looked_at = now
        if now - before > AWAY_SECONDS:
            return  # it was we who stood still: what they have said meanwhile is not read yet
        for connection in list(self.server_state.connections):
            assert isinstance(connection, BoundedConnection)
            if connection.awaiting_request_head and now - connection.silent_since > self._header_timeout:
                connection.transport.close()


def http_server(
    app: ASGIApp,
    settings: Settings,
    *,
    root_path: str = "",
    lifespan: bool = True,
    connections: int | None = None,
) -> HTTPServer:
    """connections: open at once; None: as many as the settings say."""
    limit = connections or settings.max_connections
    config = uvicorn.Config(
        app,
        root_path=root_path,
        log_config=None,
        access_log=False,
        lifespan="on" if lifespan else "off",
        http=cast(Any, partial(BoundedConnection, limit=limit)),  # h11: it bounds what it reads of a head
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=settings.keep_alive,
        proxy_headers=False,
        log_level="warning",
        limit_concurrency=2 * limit + 100,  # far off: it refuses requests of whoever is there, as many as there are
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

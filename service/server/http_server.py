"""uvicorn with a bound on connections and a time limit for request heads."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import h11
import uvicorn
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.api.routes.prometheus import metrics_response
from service.server.app import Service
from service.server.body_limits import Progress
from service.server.eviction import EvictionOrder, Rank
from service.server.listen import BACKLOG
from service.settings import Settings

SPARE_FILES = 256
"""File descriptors for all but client connections: Redis, model files, the metrics port."""

METRICS_CONNECTIONS = 64
"""The limit of the port that serves only metrics."""

STALL_SECONDS = 5.0
"""A pause between two checks for idle connections, one second apart normally, that counts as a stall of the server."""

ACCEPTED_PER_ITERATION = 8
"""Connections that are accepted in one iteration of the event loop: else it would last as long as the accepting of all
that wait, and then as the reading of all their requests."""


class BoundedConnection(H11Protocol):
    """A connection under a global limit.

    Over the limit, one connection is closed, of the first kind that there is, the longest-idle one:

    0. the server has closed it, but the peer does not read the rest
    1. no request so far; or a body that arrives too slowly, or that nobody waits for
    2. between two requests
    3. a body that arrives in time

    All others are busy. If all are, the new connection is rejected.
    """

    idle_since = 0.0
    _evicted = False

    def __init__(self, *arguments: Any, limit: int, order: EvictionOrder[BoundedConnection], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._limit = limit
        self._order = order
        self.body_progress = Progress()  # of the current request

    @property
    def idle(self) -> bool:
        """No request is being handled. The head of the next one may have arrived in part."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.idle_since = time.monotonic()
        if len(self.connections) > self._limit:
            victim = self._order.replace(cast("set[BoundedConnection]", self.connections), self)
            (victim or self)._evict()

    def _evict(self) -> None:
        """It still counts until it is lost, but makes room only once."""
        self._evicted = True
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.cycle is not None and self.idle and not self.discarding_body and not self.conn.trailing_data[0]:
            self.idle_since = time.monotonic()  # another request begins
        self.body_progress.add(len(data))
        super().data_received(data)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self.body_progress = Progress(len(self.cycle.body))

    def on_response_complete(self) -> None:
        self.idle_since = time.monotonic()
        super().on_response_complete()

    @property
    def awaiting_request_head(self) -> bool:
        """No head has arrived in full yet: of the first request, or of a next one that has begun."""
        return self.idle and (self.cycle is None or bool(self.conn.trailing_data[0])) and not self.discarding_body

    @property
    def discarding_body(self) -> bool:
        """The request has its response, and its body is still arriving."""
        return self.idle and self.cycle is not None and self.conn.their_state is h11.SEND_BODY

    @property
    def _awaiting_body(self) -> bool:
        """The rest of the body is the client's to send: it is not the server that makes it wait."""
        cycle = self.cycle
        if not cycle.more_body or cycle.response_started:
            return False
        return not self.flow.read_paused and not cycle.waiting_for_100_continue

    @property
    def eviction_rank(self) -> Rank | None:
        """The lowest is evicted first. None: busy, never evicted; or evicted already."""
        if self._evicted:
            return None
        if self.transport.is_closing():
            return (0, self.idle_since)
        if self.cycle is None or self.discarding_body:
            return (1, self.idle_since)
        if self._awaiting_body:
            return (1 if self.body_progress.slow else 3, self.body_progress.due)
        return (2, self.idle_since) if self.idle and not self.transport.get_write_buffer_size() else None


class HTTPServer(uvicorn.Server):
    """uvicorn without its signal handlers, as `run.py` stops more than the server; and with a time limit for request
    heads, and for bodies of requests that have their response: uvicorn has none once they have begun."""

    def __init__(self, config: uvicorn.Config, header_timeout: float, body_timeout: float) -> None:
        super().__init__(config)
        self._header_timeout = header_timeout
        self._body_timeout = body_timeout
        self._checked_at = time.monotonic()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():  # asyncio takes one number for both; this is how many the kernel may hold
            listener.listen(BACKLOG)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            self._close_slow()
        return await super().on_tick(counter)

    def _close_slow(self) -> None:
        before, now = self._checked_at, time.monotonic()
        self._checked_at = now
        if now - before > STALL_SECONDS:
            return  # the server stalled: heads may have arrived that are not read yet
        for connection in list(self.server_state.connections):
            assert isinstance(connection, BoundedConnection)
            idle = now - connection.idle_since
            if (connection.awaiting_request_head and idle > self._header_timeout) or (
                connection.discarding_body and idle > self._body_timeout
            ):
                connection.transport.close()


def http_server(
    app: ASGIApp,
    settings: Settings,
    *,
    root_path: str = "",
    lifespan: bool = True,
    connections: int | None = None,
) -> HTTPServer:
    """connections: how many may be open at once; None: the settings' number."""
    limit = connections or settings.max_connections
    config = uvicorn.Config(
        app,
        root_path=root_path,
        log_config=None,
        access_log=False,
        lifespan="on" if lifespan else "off",
        http=cast(Any, partial(BoundedConnection, limit=limit, order=EvictionOrder())),  # h11 limits the size of a head
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=settings.keep_alive,
        proxy_headers=False,
        log_level="warning",
        backlog=ACCEPTED_PER_ITERATION,
        limit_concurrency=2 * limit + 100,  # never reached: BoundedConnection limits
    )
    return HTTPServer(config, settings.header_timeout, settings.body_timeout)


def metrics_app(app: Service) -> ASGIApp:
    """Only the app's /metrics, for a port of its own."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/metrics" and app.services is not None:
            accept = Headers(scope=scope).get("accept")
            await (await metrics_response(app.services, accept))(scope, receive, send)
        else:
            await PlainTextResponse("this port serves only /metrics", 404)(scope, receive, send)

    return answer


def allow_open_files(connections: int) -> None:
    """Raises the limit of open files as far as the system allows, so that it is not reached before `connections`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))

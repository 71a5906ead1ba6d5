"""A job's events as server-sent events: encoding, heartbeats, an end that is never silent.

Every event carries JSON. Ids are the queue's own, so a client that comes back with Last-Event-ID goes on
where it was, on any replica. A heartbeat is an event without id, not a comment: a comment after an id makes
some clients dispatch an empty event. For the same reason `retry:` travels inside the first event.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from prometheus_client import Gauge
from starlette.types import Receive, Scope, Send

from service.jobs import Event, Gone, HubClosed, Lagged, WatchEnded, cancelled

log = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"
RETRY_MS = 2000

_EVENT_ID = re.compile(r"\d{1,20}-\d{1,20}")
_ENDINGS: dict[type[WatchEnded], tuple[int, str]] = {
    Gone: (410, "expired"),
    Lagged: (503, "lagged"),
    HubClosed: (503, "shutting_down"),
}

Render = Callable[[Event], Mapping[str, Any]]


TAKING_SECONDS = 30.0
"""How much longer than it lives a stream may take to be read."""


class EventStreamResponse(StreamingResponse):
    """Not to be cached, not to be held back by a proxy."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        content: AsyncIterator[bytes],
        headers: Mapping[str, str] | None = None,
        *,
        life: float,
        ending: asyncio.Event,
        abandoned: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """life and ending: as in relay. abandoned: what to do when its reader goes away before it ends."""
        fixed = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
        super().__init__(content, headers={**fixed, **(headers or {})})
        self._life = life
        self._ending = ending
        self._abandoned = abandoned

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Whoever reads a byte now and then holds up the events, and the look at how old the stream is.
        try:
            async with asyncio.timeout(self._life + TAKING_SECONDS):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            log.warning("a stream was cut off: its reader took too little")

    async def listen_for_disconnect(self, receive: Receive) -> None:
        await super().listen_for_disconnect(receive)
        if self._abandoned is not None and not self._ending.is_set():
            await self._abandoned()


def encode(name: str, data: Mapping[str, Any], *, id: str | None = None, retry: int | None = None) -> bytes:
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return format_sse_event(data_str=text, event=name, id=id, retry=retry)


def last_event_id(header: str | None, query: str | None) -> str | None:
    """Where a client was. What is no event id means from the beginning.

    The header wins: a browser keeps it up to date when it reconnects, while the URL stays as it was.
    """
    given = header or query or ""
    return given if _EVENT_ID.fullmatch(given) else None


async def relay(
    events: AsyncIterator[Event],
    render: Render,
    *,
    heartbeat: float,
    life: float,
    closing: asyncio.Event,
    ending: asyncio.Event,
    streams: Gauge,
) -> AsyncIterator[bytes]:
    """Encodes events until they end.

    heartbeat: seconds of silence that are filled. life: seconds after which the client is asked to come back. closing:
    the server goes away. ending: set before a last frame that is not the job's own end. streams: how many are open. An
    exception is told to the client as an `error` event without id: it may resume from the last event it has.
    """
    over = time.monotonic() + life
    retry: int | None = RETRY_MS
    coming: asyncio.Task[Event | None] = asyncio.ensure_future(_next(events))
    closed = asyncio.ensure_future(closing.wait())
    streams.inc()
    try:
        while True:
            patience = min(heartbeat, over - time.monotonic())
            await asyncio.wait({coming, closed}, timeout=max(0.0, patience), return_when=asyncio.FIRST_COMPLETED)
            if time.monotonic() >= over and not _terminal(coming):
                ending.set()
                yield encode("reconnect", {"reason": "stream_life", "seconds": life}, retry=retry)
                return
            if coming.done():
                event = coming.result()
                if event is None:
                    return
                # Always one on its way: cancelling it is what closes the watch, wherever we are left.
                coming = asyncio.ensure_future(_next(events))
                yield encode(event.name, render(event), id=event.id, retry=retry)
                retry = None
            elif closed.done():
                raise HubClosed("the server is shutting down")
            else:
                yield encode("heartbeat", {"time": time.time()}, retry=retry)
                retry = None
    except WatchEnded as ended:
        ending.set()
        yield _error(*_ENDINGS.get(type(ended), (503, "ended")), str(ended), retry)
    except Exception:
        log.exception("an event stream failed")
        ending.set()
        yield _error(500, "internal_error", "the stream failed on our side; reconnect to go on", retry)
    finally:
        streams.dec()
        # Shielded: when the client went away, whatever is awaited here is cancelled at once.
        await asyncio.shield(cancelled(coming, closed))


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


def _terminal(coming: asyncio.Task[Event | None]) -> bool:
    """Whether what has come is the end anyway."""
    if not coming.done() or coming.exception() is not None:
        return coming.done()
    event = coming.result()
    return event is None or event.terminal


def _error(status: int, code: str, message: str, retry: int | None) -> bytes:
    """A problem, as it would have been the response; `error` as in the event of a job that failed."""
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": message}
    return encode("error", problem | {"code": code, "error": {"code": code, "message": message}}, retry=retry)

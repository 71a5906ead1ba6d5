"""Server-sent events: frames, heartbeats, and a last event that says why a stream ends early.

Every event carries JSON. Event ids are the queue's own, so a client that reconnects with Last-Event-ID resumes on any
replica. A heartbeat is an event without id, not a comment: a comment after an id makes some clients dispatch an empty
event. For the same reason `retry:` is part of the first event.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from http import HTTPStatus

from fastapi.responses import StreamingResponse
from prometheus_client import Gauge
from starlette.types import Receive, Scope, Send

from service.jobs import Event, Gone, HubClosed, Lagged, WatchEnded
from service.jobs.messages import encode_event
from service.jobs.watch import Watch

log = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"
RETRY = b"retry: 2000\n"  # ms
PIECE_BYTES = 2**16

_EVENT_ID = re.compile(r"\d{1,20}-\d{1,20}")
_ENDINGS: dict[type[WatchEnded], tuple[int, str]] = {
    Gone: (410, "expired"),
    Lagged: (503, "lagged"),
    HubClosed: (503, "shutting_down"),
}

Render = Callable[[Event], bytes]

TAKING_SECONDS = 30.0
"""After its maximum age a slow client gets so much longer to read the rest."""


class EventStreamResponse(StreamingResponse):
    """Caches must not store it, and proxies must not buffer it."""

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
        """life, ending: as in relay. abandoned: called when the client disconnects before the stream ends."""
        fixed = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
        super().__init__(content, headers={**fixed, **(headers or {})})
        self._life = life
        self._ending = ending
        self._abandoned = abandoned

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A slow reader blocks `send`, so relay never checks the stream's age; this limit does.
        try:
            async with asyncio.timeout(self._life + TAKING_SECONDS):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            log.warning("a stream was cut off: its client read too slowly")

    async def listen_for_disconnect(self, receive: Receive) -> None:
        await super().listen_for_disconnect(receive)
        if self._abandoned is not None and not self._ending.is_set():
            await self._abandoned()


def encode(name: str, data: bytes, id: str | None = None) -> bytes:
    """data: JSON, which has no line break."""
    return b"event: %b\ndata: %b\n%b\n" % (name.encode(), data, b"" if id is None else b"id: %b\n" % id.encode())


def frame(event: Event) -> bytes:
    """Made once for all clients that watch the job."""
    if event.frame is None:
        event.frame = encode(event.name, event.data, event.id)
    return event.frame


def last_event_id(header: str | None, query: str | None) -> str | None:
    """The event after which to resume; None, also for a malformed id: from the beginning.

    The header takes precedence: a browser updates it when it reconnects, while the URL stays the same.
    """
    given = header or query or ""
    return given if _EVENT_ID.fullmatch(given) else None


async def relay(
    watch: Watch, render: Render, *, heartbeat: float, life: float, ending: asyncio.Event, streams: Gauge
) -> AsyncIterator[bytes]:
    """Yields the frames of the events until the job ends; all that wait are joined.

    heartbeat: after so many seconds without an event, a heartbeat is sent. life: after so many seconds, the client is
    asked to reconnect. ending: set before a last frame that is not the job's own end. streams: the number that are
    open. An exception becomes an `error` event without id, so the client may resume after the last event that it has.
    """
    over = time.monotonic() + life
    retry = RETRY
    streams.inc()
    try:
        while not watch.finished:
            events = await watch.next(max(0.0, min(heartbeat, over - time.monotonic())))
            aged = time.monotonic() >= over
            frames = [render(event) for event in events]
            if not (frames or aged or watch.finished):
                frames.append(encode("heartbeat", encode_event({"time": time.time()})))
            for piece in _joined(frames):
                yield retry + piece
                retry = b""
            if aged and not watch.finished:
                ending.set()
                yield retry + encode("reconnect", encode_event({"reason": "stream_life", "seconds": life}))
                return
    except WatchEnded as ended:
        ending.set()
        yield retry + _error(*_ENDINGS.get(type(ended), (503, "ended")), str(ended))
    except Exception:
        log.exception("an event stream failed")
        ending.set()
        yield retry + _error(500, "internal_error", "the stream failed on our side; reconnect to go on")
    finally:
        streams.dec()
        # Shielded, because everything awaited here is cancelled when the client has disconnected.
        await asyncio.shield(watch.close())


def _joined(frames: list[bytes]) -> Iterator[bytes]:
    """Joins frames up to PIECE_BYTES, so that many previews are not copied at once."""
    piece: list[bytes] = []
    size = 0
    for part in frames:
        piece.append(part)
        size += len(part)
        if size >= PIECE_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)


def _error(status: int, code: str, message: str) -> bytes:
    """A problem, as in a response; its member `error` is as in the event of a failed job."""
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": message}
    return encode("error", encode_event(problem | {"code": code, "error": {"code": code, "message": message}}))

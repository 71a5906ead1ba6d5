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
import types
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from fastapi.responses import StreamingResponse
from prometheus_client import Gauge
from starlette.types import Message, Receive, Scope, Send

from service.jobs import Gone, HubClosed, Lagged, WatchEnded
from service.jobs.messages import encode_event

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

T = TypeVar("T")


class EventSource(Protocol[T]):
    """Where a stream's events come from: a Watch, or several as one."""

    @property
    def finished(self) -> bool: ...

    async def next(self, seconds: float | None = None, push: Callable[[list[T]], bool] | None = None) -> list[T]: ...

    async def close(self) -> None: ...


TAKING_SECONDS = 30.0
"""After its maximum age a slow client gets so much longer to read the rest."""


class EventStreamResponse(StreamingResponse, Generic[T]):
    """Relays the events of a job, or of several, until they end. Caches must not store it, nor proxies buffer it.

    An exception becomes an `error` event without id, so the client may resume after the last event that it has.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        watch: EventSource[T],
        render: Callable[[T], bytes],
        headers: Mapping[str, str] | None = None,
        *,
        heartbeat: float,
        life: float,
        streams: Gauge,
        abandoned: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """heartbeat: after so many seconds without an event, a heartbeat is sent. life: after so many seconds, the
        client is asked to reconnect. streams: the number that are open. abandoned: called when the client disconnects
        before the stream ends."""
        fixed = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
        super().__init__((), headers={**fixed, **(headers or {})})
        self._watch = watch
        self._render = render
        self._heartbeat = heartbeat
        self._life = life
        self._streams = streams
        self._abandoned = abandoned
        self._ending = False  # set before a last frame that is not the job's own end
        self._retry = RETRY
        self._said_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A slow reader blocks `send`, so the stream's age is never checked; this limit does.
        try:
            async with asyncio.timeout(self._life + TAKING_SECONDS):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            log.warning("a stream was cut off: its client read too slowly")

    async def listen_for_disconnect(self, receive: Receive) -> None:
        await super().listen_for_disconnect(receive)
        if self._abandoned is not None and not self._ending:
            await self._abandoned()

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._body = Body(send)
        self._streams.inc()
        try:
            await self._relay()
        except WatchEnded as ended:
            await self._say_last(self._failure(*_ending(ended), str(ended)))
        except Exception:
            log.exception("an event stream failed")
            await self._say_last(
                self._failure(500, "internal_error", "the stream failed on our side; reconnect to go on")
            )
        finally:
            self._streams.dec()
            # Shielded, because everything awaited here is cancelled when the client has disconnected.
            await asyncio.shield(self._watch.close())
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _relay(self) -> None:
        over = time.monotonic() + self._life
        self._said_at = time.monotonic()
        while not self._watch.finished:
            until = min(self._said_at + self._heartbeat, over)
            await self._say(await self._next(max(0.0, until - time.monotonic())))
            now = time.monotonic()
            if now >= over and not self._watch.finished:
                await self._say_last(self._reconnect())
                return
            if now >= self._said_at + self._heartbeat and not self._watch.finished:
                await self._body.send(self._pieces([self._beat()]))

    async def _next(self, seconds: float) -> list[T]:
        return await self._watch.next(seconds, self._push)

    def _push(self, events: list[T]) -> bool:
        """Called by the hub with each live event; this response's task sleeps on, unless its client reads slowly."""
        return self._body.push(self._pieces([self._render(event) for event in events]))

    async def _say(self, events: list[T]) -> None:
        await self._body.send(self._pieces([self._render(event) for event in events]))

    def _beat(self) -> bytes:
        return encode("heartbeat", encode_event({"time": time.time()}))

    def _reconnect(self) -> bytes:
        return encode("reconnect", encode_event({"reason": "stream_life", "seconds": self._life}))

    def _failure(self, status: int, code: str, message: str) -> bytes:
        return _error(status, code, message)

    async def _say_last(self, frame: bytes) -> None:
        self._ending = True
        await self._body.send(self._pieces([frame]))

    def _pieces(self, frames: list[bytes]) -> Iterator[bytes]:
        if frames:
            self._said_at = time.monotonic()
            frames[0], self._retry = self._retry + frames[0], b""
        return _joined(frames)


class Body:
    """Sends a response's body in order: by the response's own task, or without a switch to it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun: Awaitable[None] | None = None  # a send that waits until the client has read more
        self._waiting: list[bytes] = []  # what comes after it

    def push(self, pieces: Iterable[bytes]) -> bool:
        """Not to be called while the task sends. False: the client reads slowly, and the task must call `send`, which
        sends the rest."""
        for piece in pieces:
            if self._begun is None:
                self._begun = _begin(self._send(_body(piece)))
            else:
                self._waiting.append(piece)
        return self._begun is None

    async def send(self, pieces: Iterable[bytes] = ()) -> None:
        begun, waiting = self._begun, self._waiting
        self._begun, self._waiting = None, []
        if begun is not None:
            await begun
        for part in (waiting, pieces):
            for piece in part:
                await self._send(_body(piece))


def _body(piece: bytes) -> Message:
    return {"type": "http.response.body", "body": piece, "more_body": True}


def _begin(work: Awaitable[None]) -> Awaitable[None] | None:
    """Runs an awaitable, outside a task, up to where it has to wait. None: it is done. What is left must be awaited."""
    steps = work.__await__()
    try:
        future = next(steps)
    except StopIteration:
        return None
    return _rest(steps, future)


@types.coroutine
def _rest(steps: Generator[Any, Any, None], future: Any) -> Generator[Any, Any, None]:
    """future: what `steps` waits for."""
    while True:
        try:
            value = yield future
        except BaseException as error:
            proceed = partial(steps.throw, error)
        else:
            proceed = partial(steps.send, value)
        try:
            future = proceed()
        except StopIteration:
            return


def ended_early(why: WatchEnded, job: str | None = None) -> bytes:
    """The `error` event that tells why events end early. job: whose, where the stream has those of several jobs."""
    return _error(*_ending(why), str(why), {} if job is None else {"job": job})


def _ending(why: WatchEnded) -> tuple[int, str]:
    """HTTP status and code."""
    return _ENDINGS.get(type(why), (503, "ended"))


def _error(status: int, code: str, message: str, about: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """A problem, as in a response; its member `error` is as in the event of a failed job."""
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": message}
    return encode("error", encode_event(problem | {"code": code, "error": {"code": code, "message": message}, **about}))


def encode(name: str, data: bytes, id: str | None = None) -> bytes:
    """data: JSON, which has no line break."""
    return b"event: %b\ndata: %b\n%b\n" % (name.encode(), data, b"" if id is None else b"id: %b\n" % id.encode())


def last_event_id(header: str | None, query: str | None) -> str | None:
    """The event after which to resume; None, also for a malformed id: from the beginning.

    The header takes precedence: a browser updates it when it reconnects, while the URL stays the same.
    """
    given = header or query or ""
    return given if _EVENT_ID.fullmatch(given) else None


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

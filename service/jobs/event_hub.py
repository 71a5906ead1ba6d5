"""One reader of Redis per replica, however many watch: XREAD over all watched jobs, fanned out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.jobs.connection import cancelled
from service.jobs.messages import (
    ZERO,
    EndedJob,
    Event,
    EventId,
    Gone,
    HubClosed,
    Lagged,
    QueueConfig,
    WatchEnded,
    format_event_id,
    parse_event_id,
)
from service.jobs.queue import Queue
from service.jobs.scripts import text

log = logging.getLogger(__name__)

BLOCK_SECONDS = 2.0
SILENCE_SECONDS = 3.0  # beyond that, after which a connection is taken for dead: the socket has no timeout of its own
PAGE = 64
AUDIT_SECONDS = 30.0
Entries = list[tuple[Any, dict[Any, Any]]]


class Watcher:
    """The bounded buffer between the hub and one reader."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        self._ended: WatchEnded | None = None
        self._wake = asyncio.Event()

    def offer(self, event: Event) -> None:
        if self._ended is None and len(self._events) >= self._limit:
            self._events.clear()  # the stream in Redis is the buffer: the reader resumes from there
            self.end(Lagged(f"more than {self._limit} events behind"))
        elif self._ended is None:
            self._events.append(event)
            self._wake.set()

    def end(self, why: WatchEnded) -> None:
        self._ended = self._ended or why
        self._wake.set()

    async def next(self) -> Event:
        while not self._events:
            if self._ended is not None:
                raise self._ended
            self._wake.clear()
            await self._wake.wait()
        return self._events.popleft()


@dataclass(slots=True)
class Followed:
    """A stream that the hub reads, and how far it has read it."""

    position: EventId
    watchers: set[Watcher] = field(default_factory=set)


class EventHub:
    """`redis` must be a blocking client (`connect(url, blocking=True)`). swept: called with each job that this hub
    found to have waited too long."""

    def __init__(
        self,
        redis: Redis,
        config: QueueConfig,
        *,
        buffer: int = 256,
        swept: Callable[[EndedJob], None] = lambda _: None,
    ) -> None:
        self.redis = redis
        self.config = config
        self.buffer = buffer
        self._swept = swept
        self._queue = Queue(redis, config)
        self._followed: dict[str, Followed] = {}
        self._bell = f"{config.prefix}hub:{uuid.uuid4().hex}"  # rung when there is another stream to read
        self._bell_position = "0-0"
        self._task: asyncio.Task[None] | None = None
        self._audited = 0.0

    async def start(self) -> None:
        if self._task is None:
            self._audited = time.monotonic()
            self._task = asyncio.create_task(self._run(), name="event hub")

    async def close(self) -> None:
        """Ends every watch with HubClosed."""
        if self._task is None:
            return
        task, self._task = self._task, None
        await cancelled(task)
        for followed in self._followed.values():
            for watcher in followed.watchers:
                watcher.end(HubClosed("this replica is shutting down"))
        self._followed.clear()
        with contextlib.suppress(RedisError, OSError):
            await self.redis.delete(self._bell)

    async def watch(self, job_id: str, after: str | None = None) -> AsyncIterator[Event]:
        """Every event after `after` (None: all), then live, without gap or repeat, up to the terminal one.

        An id beyond this stream starts from the beginning; the terminal event's own id ends at once.
        Raises Gone, Lagged or HubClosed when the watch ends early.
        """
        key = self._events_key(job_id)
        top = cast(Entries, await self.redis.xrevrange(key, count=1))
        if not top:
            raise Gone(f"job {job_id} has no events (any more)")
        last, newest = parse_event_id(after), decode(*top[0])
        if last > parse_event_id(newest.id):
            last = ZERO
        if newest.terminal and last == parse_event_id(newest.id):
            return
        async for event in self._replay(key, last, None):
            yield event
            last = parse_event_id(event.id)
            if event.terminal:
                return

        watcher, followed = self._attach(key, last)
        try:
            if followed is None:
                await self._ring()
            elif followed > last:  # read for other watchers before this one was there
                async for event in self._replay(key, last, followed):
                    yield event
                    last = parse_event_id(event.id)
                    if event.terminal:
                        return
            while True:
                event = await watcher.next()
                if parse_event_id(event.id) <= last:
                    continue
                yield event
                last = parse_event_id(event.id)
                if event.terminal:
                    return
        finally:
            self._detach(key, watcher)

    def stored_events(self, job_id: str) -> AsyncIterator[Event]:
        """The events that are there already: it does not wait for more."""
        return self._replay(self._events_key(job_id), ZERO, None)

    def _events_key(self, job_id: str) -> str:
        return f"{self.config.prefix}events:{job_id}"

    async def _replay(self, key: str, last: EventId, until: EventId | None) -> AsyncIterator[Event]:
        """The stored events in (last, until], page by page, so a slow reader costs no memory here."""
        end = "+" if until is None else format_event_id(until)
        while True:
            page = cast(Entries, await self.redis.xrange(key, min=f"({format_event_id(last)}", max=end, count=PAGE))
            for entry in page:
                event = decode(*entry)
                yield event
                last = parse_event_id(event.id)
            if len(page) < PAGE:
                return

    def _attach(self, key: str, last: EventId) -> tuple[Watcher, EventId | None]:
        """A watcher, and the position after which it hears everything (None: `last`, the stream is new)."""
        if self._task is None:
            raise HubClosed("the hub is not running")
        watcher = Watcher(self.buffer)
        followed = self._followed.get(key)
        if followed is None:
            self._followed[key] = Followed(last, {watcher})
            return watcher, None
        followed.watchers.add(watcher)
        return watcher, followed.position

    def _detach(self, key: str, watcher: Watcher) -> None:
        followed = self._followed.get(key)
        if followed is not None:
            followed.watchers.discard(watcher)
            if not followed.watchers:
                del self._followed[key]

    async def _ring(self) -> None:
        # A stream, not CLIENT UNBLOCK: what rings between two reads is still heard by the next one.
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.xadd(self._bell, {"": ""}, maxlen=1, approximate=False)
            pipe.expire(self._bell, 24 * 3600)
            await pipe.execute()

    async def _run(self) -> None:
        pause = 0.1
        while True:
            try:
                await self._read()
                if time.monotonic() - self._audited > AUDIT_SECONDS:
                    await self._audit()
                pause = 0.1
            except Exception as error:  # whatever it is, all who watch here hear nothing more without this task
                foreseen = isinstance(error, RedisError | OSError | TimeoutError)
                log.warning(
                    "event hub: %s; reading again in %.1f s", error, pause, exc_info=None if foreseen else error
                )
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)

    async def _read(self) -> None:
        asked = dict(self._followed)
        streams: dict[Any, Any] = {
            self._bell: self._bell_position,
            **{key: format_event_id(followed.position) for key, followed in asked.items()},
        }
        async with asyncio.timeout(BLOCK_SECONDS + SILENCE_SECONDS):
            reply = await self.redis.xread(streams, count=PAGE, block=round(BLOCK_SECONDS * 1000))
        for key, entries in normalised(reply):
            if key == self._bell:
                self._bell_position = text(entries[-1][0])
                continue
            followed = asked[key]
            if self._followed.get(key) is not followed:
                continue  # its last watcher left meanwhile; whoever came after reads from elsewhere
            for entry in entries:
                event = decode(*entry)
                followed.position = parse_event_id(event.id)
                for watcher in tuple(followed.watchers):
                    watcher.offer(event)

    async def _audit(self) -> None:
        """A stream that vanished under its watchers (a server that lost data) must not be waited for, and neither must
        a job that nobody will draw. There are hubs even where there is no worker."""
        self._audited = time.monotonic()
        async with asyncio.timeout(SILENCE_SECONDS):
            for ended in await self._queue.expire():
                log.warning("job %s has waited too long: %s", ended.id, ended.state)
                self._swept(ended)
        for key in list(self._followed):
            if not await self.redis.exists(key) and (followed := self._followed.get(key)):
                for watcher in tuple(followed.watchers):
                    watcher.end(Gone("the job's events are gone"))


def decode(event_id: Any, fields: Mapping[Any, Any]) -> Event:
    held = {text(name): value for name, value in fields.items()}
    return Event(id=text(event_id), name=text(held["event"]), data=json.loads(held["data"]))


def normalised(reply: Any) -> list[tuple[str, Entries]]:
    """XREAD's reply, whose shape depends on the protocol: a list of pairs, or a dict of lists."""
    pairs = reply.items() if isinstance(reply, Mapping) else reply or []
    return [(text(key), entries) for key, entries in pairs]

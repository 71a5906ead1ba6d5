"""One reader of Redis for all watches of a replica: XREAD over all watched jobs, fanned out."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.jobs.connection import cancelled
from service.jobs.lua import load_script, text
from service.jobs.messages import ZERO, EndedJob, Event, EventId, Gone, HubClosed, QueueConfig, format_event_id
from service.jobs.queue import Queue
from service.jobs.watch import PAGE, Endings, Entry, Page, Watch, decode, decoded, position_of, read_page
from service.logs import Outage

log = logging.getLogger(__name__)

BLOCK_SECONDS = 2.0
SILENCE_SECONDS = 3.0  # more, and the connection counts as dead: the socket has no timeout
AUDIT_SECONDS = 30.0
SWEEP_SECONDS = 1.0  # between two looks for jobs whose start deadline is over
SLICE_SECONDS = 0.005
"""After so long, the delivery of events pauses for as long: requests get at least half of the event loop's time."""
REMEMBERED = 1000  # entries that are no events: each is logged and counted once
PageKey = tuple[str, EventId, EventId | None]
CLOSED = "the server is shutting down"


@dataclass(slots=True)
class Followed:
    """A stream that the hub reads, and how far it has read it."""

    position: EventId
    watches: set[Watch] = field(default_factory=set)


class EventHub:
    """redis: a blocking client (`connect(url, blocking=True)`). swept: called with each job that this hub ended because
    it had waited too long. skipped: called for each entry of a stream that is no event."""

    def __init__(
        self,
        redis: Redis,
        config: QueueConfig,
        *,
        buffer: int = 256,
        swept: Callable[[EndedJob], None] = lambda _: None,
        skipped: Callable[[], None] = lambda: None,
    ) -> None:
        self.redis = redis
        self.config = config
        self.buffer = buffer
        self._swept = swept
        self._skipped = skipped
        self._skipped_ids: dict[tuple[str, str], None] = {}
        self._pages: dict[PageKey, asyncio.Task[Page]] = {}
        self._queue = Queue(redis, config)
        self._wake = load_script(redis, "wake_hub", when_full=True)
        self._followed: dict[str, Followed] = {}
        # An entry in this stream ends a read, so that the next one includes another job's stream.
        self._notifications = f"{config.prefix}hub:{uuid.uuid4().hex}"
        self._notified = "0-0"
        self._ends = f"{config.prefix}ended"  # the last jobs that ended, whoever ended them
        self._ends_read: str | None = None
        self._endings = Endings()
        self._task: asyncio.Task[None] | None = None
        self._until_closing: asyncio.Task[None] | None = None
        self._closing = False
        self._audited = self._looked = 0.0
        self._slice_ends = 0.0

    async def start(self, closing: asyncio.Event | None = None) -> None:
        """closing: once it is set, all watches end with HubClosed."""
        if self._task is None:
            self._closing = False
            self._audited = self._looked = time.monotonic()
            self._task = asyncio.create_task(self._run(), name="event hub")
        if closing is not None:
            self._until_closing = asyncio.create_task(self._end_at(closing), name="event hub's closing")

    async def close(self) -> None:
        """Ends every watch with HubClosed."""
        if self._task is None:
            return
        tasks = (self._task, self._until_closing, *self._pages.values())
        await cancelled(*(task for task in tasks if task is not None))
        self._task = self._until_closing = None
        self._end_watches()
        self._followed.clear()
        with suppress(RedisError, OSError):
            await self.redis.delete(self._notifications)

    def follow(self, job_id: str, after: str | None = None) -> Watch:
        """The job's events after `after` (None: all). To be closed."""
        return Watch(self, job_id, after, self.buffer)

    async def watch(self, job_id: str, after: str | None = None) -> AsyncGenerator[Event]:
        """As follow, one event after another. Raises Gone, Lagged or HubClosed when the watch ends early."""
        watch = self.follow(job_id, after)
        try:
            while not watch.finished:
                for event in await watch.next():
                    yield event
        finally:
            await asyncio.shield(watch.close())

    def ending(self, job_id: str) -> AbstractContextManager[asyncio.Event]:
        """The event is set when the job ends; it costs less than to follow the job's events. It does not tell an end
        from before, and may miss one: look at the job's state first, and now and then."""
        return self._endings.waiting(job_id)

    async def stored_events(self, job_id: str) -> AsyncIterator[Event]:
        """The events that Redis holds. Does not wait for more."""
        last, full = ZERO, True
        while full:
            page = await self.page(self.events_key(job_id), last, None)
            for event in page.events:
                yield event
            last, full = page.last, page.full

    async def page(self, key: str, after: EventId, until: EventId | None) -> Page:
        """As read_page. Readers that ask for the same page at the same time share one read, and its events."""
        asked = key, after, until
        if asked not in self._pages:
            self._pages[asked] = reading = asyncio.create_task(read_page(self.redis, *asked, self._skip))
            reading.add_done_callback(partial(self._page_read, asked))
        return await asyncio.shield(self._pages[asked])

    def _page_read(self, asked: PageKey, reading: asyncio.Task[Page]) -> None:
        del self._pages[asked]
        if not reading.cancelled():
            reading.exception()  # counts as retrieved: the readers that asked may have left

    async def newest(self, job_id: str) -> Event:
        """A job's last event. Raises Gone."""
        top = cast(list[Entry], await self.redis.xrevrange(self.events_key(job_id), count=1))
        if not top:
            raise Gone(f"job {job_id} has no events (any more)")
        return decode(*top[0]) or Event(id=text(top[0][0]), name="")

    def events_key(self, job_id: str) -> str:
        return f"{self.config.prefix}events:{job_id}"

    def attach(self, key: str, watch: Watch, last: EventId) -> EventId | None:
        """From now on the watch gets all events after the returned id (None: after `last`, because the hub did not
        read the stream before)."""
        if self._task is None or self._closing:
            raise HubClosed(CLOSED)
        followed = self._followed.get(key)
        if followed is None:
            self._followed[key] = Followed(last, {watch})
            return None
        followed.watches.add(watch)
        return followed.position

    def detach(self, key: str, watch: Watch) -> None:
        followed = self._followed.get(key)
        if followed is not None:
            followed.watches.discard(watch)
            if not followed.watches:
                del self._followed[key]

    async def notify(self) -> None:
        # A stream, not CLIENT UNBLOCK: a notification between two reads ends the next one.
        await self._wake([self.config.prefix], [self._notifications])

    async def _end_at(self, closing: asyncio.Event) -> None:
        await closing.wait()
        self._end_watches()

    def _end_watches(self) -> None:
        self._closing = True
        for followed in self._followed.values():
            for watch in followed.watches:
                watch.end(HubClosed(CLOSED))

    async def _run(self) -> None:
        pause, outage = 0.1, Outage(log)
        while True:
            try:
                await self._read()
                outage.over("event hub: reads again")
                if time.monotonic() - self._looked > SWEEP_SECONDS:
                    self._looked = time.monotonic()
                    await self._sweep(self._queue.expire_unstarted)
                if time.monotonic() - self._audited > AUDIT_SECONDS:
                    await self._audit()
                pause = 0.1
            except Exception as error:  # whatever it is: without this task, no watch gets events
                if isinstance(error, RedisError | OSError | TimeoutError):
                    outage.failed("event hub: %s; reading again in %.1f s", error, pause)
                else:
                    log.warning("event hub: %s; reading again in %.1f s", error, pause, exc_info=error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)

    async def _read(self) -> None:
        if self._ends_read is None:
            newest = cast(list[Entry], await self.redis.xrevrange(self._ends, count=1))
            self._ends_read = text(newest[0][0]) if newest else "0-0"
        reading = dict(self._followed)
        streams: dict[Any, Any] = {
            self._notifications: self._notified,
            self._ends: self._ends_read,
            **{key: format_event_id(followed.position) for key, followed in reading.items()},
        }
        async with asyncio.timeout(BLOCK_SECONDS + SILENCE_SECONDS):
            reply = await self.redis.xread(streams, count=PAGE, block=round(BLOCK_SECONDS * 1000))
        self._slice_ends = time.monotonic() + SLICE_SECONDS
        for key, entries in normalised(reply):
            if key == self._notifications:
                self._notified = text(entries[-1][0])
                continue
            if key == self._ends:
                self._ends_read = text(entries[-1][0])
                for _, fields in entries:
                    self._endings.tell(fields.get(b"job", b"").decode(errors="replace"))
                continue
            followed = reading[key]
            if self._followed.get(key) is followed:  # else all its watches closed, and a new one reads from elsewhere
                await self._deliver(followed, decoded(key, entries, self._skip), position_of(entries[-1]))

    async def _deliver(self, followed: Followed, events: list[Event], position: EventId) -> None:
        """While this pauses, more events gather in Redis. The next read brings them together, and each reader gets them
        in one piece."""
        followed.position = position  # first: a watch that attaches during a pause reads these events from Redis
        if not events:
            return
        for watch in tuple(followed.watches):
            if watch in followed.watches:  # it may close during a pause
                watch.offer(events)
            if time.monotonic() >= self._slice_ends:
                await asyncio.sleep(SLICE_SECONDS)
                self._slice_ends = time.monotonic() + SLICE_SECONDS

    def _skip(self, key: str, event_id: str) -> None:
        if (key, event_id) in self._skipped_ids:
            return
        self._skipped_ids[key, event_id] = None
        if len(self._skipped_ids) > REMEMBERED:
            del self._skipped_ids[next(iter(self._skipped_ids))]
        log.warning("entry %s of %s is skipped: it is no event", event_id, key)
        self._skipped()

    async def _sweep(self, expire: Callable[[], Awaitable[list[EndedJob]]]) -> None:
        """Ends jobs that waited too long, until there are none."""
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                swept = await expire()
            for ended in swept:
                log.warning("job %s was not drawn: %s", ended.id, ended.code or ended.state)
                self._swept(ended)
            if not swept:
                return

    async def _audit(self) -> None:
        """Ends the watches of streams that a Redis without its data no longer holds, and jobs that waited too long:
        there are hubs even where there is no worker."""
        self._audited = time.monotonic()
        await self._sweep(self._queue.expire)
        for key in list(self._followed):
            if not await self.redis.exists(key) and (followed := self._followed.get(key)):
                for watch in tuple(followed.watches):
                    watch.end(Gone("the job's events are gone"))


def normalised(reply: Any) -> list[tuple[str, list[Entry]]]:
    """XREAD's reply, whose shape depends on the protocol: a list of pairs, or a dict of lists."""
    pairs = reply.items() if isinstance(reply, Mapping) else reply or []
    return [(text(key), entries) for key, entries in pairs]

"""One reader's way through the events of a job: first those that Redis holds, then those that the hub delivers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol, cast

from redis.asyncio import Redis

from service.jobs.connection import cancelled
from service.jobs.messages import ZERO, Event, EventId, Gone, Lagged, WatchEnded, format_event_id, parse_event_id
from service.jobs.scripts import text

PAGE = 64
Entries = list[tuple[Any, dict[Any, Any]]]


class Hub(Protocol):
    """What a watch needs of the EventHub."""

    redis: Redis

    def events_key(self, job_id: str) -> str: ...

    def attach(self, key: str, watch: Watch, last: EventId) -> EventId | None: ...

    def detach(self, key: str, watch: Watch) -> None: ...

    async def notify(self) -> None: ...


class Watch:
    """`next` returns every event after `after` (None: all), without gap or repeat. finished: the terminal event has
    been returned.

    limit: how many live events wait here for a slow reader. One more ends the watch: Redis holds them all, and the
    reader may resume from there.
    """

    def __init__(self, hub: Hub, job_id: str, after: str | None, limit: int) -> None:
        self.finished = False
        self._hub = hub
        self._job_id = job_id
        self._key = hub.events_key(job_id)
        self._after = after
        self._limit = limit
        self._last = ZERO  # the last event that was returned
        self._begun = False
        self._stored = True  # Redis may hold more for this reader
        self._until: EventId | None = None  # the last event to read from Redis; None: all that it holds
        self._attached = False
        self._live = False
        self._page: asyncio.Task[list[Event]] | None = None  # a page that is read from Redis
        self._events: deque[Event] = deque()
        self._ended: WatchEnded | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def next(self, seconds: float | None = None) -> list[Event]:
        """One or more events; none after so many seconds without any, and once the watch is finished.

        Raises Gone, Lagged or HubClosed when the watch ends before the terminal event.
        """
        while not self._live and not self.finished:
            # In a task, because the read is not to be cancelled by a timeout when Redis stalls.
            self._page = self._page or asyncio.ensure_future(self._read_page())
            await asyncio.wait({self._page}, timeout=seconds)
            if not self._page.done():
                return []
            page, self._page = self._page, None
            if events := page.result():
                return self._returned(events)
        return [] if self.finished else self._returned(await self._next_live(seconds))

    async def close(self) -> None:
        self._hub.detach(self._key, self)
        if self._page is not None:
            await cancelled(self._page)

    def offer(self, event: Event) -> None:
        if self._ended is None and len(self._events) >= self._limit:
            self._events.clear()
            self.end(Lagged(f"more than {self._limit} events behind"))
        elif self._ended is None:
            self._events.append(event)
            self._wake()

    def end(self, why: WatchEnded) -> None:
        self._ended = self._ended or why
        self._wake()

    async def _next_live(self, seconds: float | None) -> list[Event]:
        while True:
            if not self._events and self._ended is None:
                await self._wait(seconds)
            if not self._events:
                if self._ended is not None:
                    raise self._ended
                return []
            events = [event for event in self._events if event.position > self._last]
            self._events.clear()
            if events:
                return events

    async def _wait(self, seconds: float | None) -> None:
        """Not by asyncio.wait, which makes a task for each event: half of what a relayed event costs."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _returned(self, events: list[Event]) -> list[Event]:
        if events:
            self._last, self.finished = events[-1].position, events[-1].terminal
        return events

    async def _read_page(self) -> list[Event]:
        """The next events that Redis holds. None: the reader has seen them all, and is attached to the hub."""
        if not self._begun:
            await self._begin()
        while not self._live and not self.finished:
            if not self._stored:
                await self._attach()
            elif events := await stored_page(self._hub.redis, self._key, self._last, self._until):
                self._stored = len(events) == PAGE
                return events
            else:
                self._stored = False
        return []

    async def _begin(self) -> None:
        """An id beyond this stream starts from the beginning; the terminal event's own id finishes at once."""
        top = cast(Entries, await self._hub.redis.xrevrange(self._key, count=1))
        if not top:
            raise Gone(f"job {self._job_id} has no events (any more)")
        self._begun = True
        newest, self._last = decode(*top[0]), parse_event_id(self._after)
        if self._last > newest.position:
            self._last = ZERO
        self.finished = newest.terminal and self._last == newest.position

    async def _attach(self) -> None:
        if self._attached:  # and the events that the hub had read before have been read here too
            self._live = True
            return
        read_before = self._hub.attach(self._key, self, self._last)
        self._attached = True
        if read_before is None:
            await self._hub.notify()
        if read_before is not None and read_before > self._last:
            self._stored, self._until = True, read_before
        else:
            self._live = True


async def stored_page(redis: Redis, key: str, after: EventId, until: EventId | None = None) -> list[Event]:
    """The first events in (after, until] that Redis holds: page by page, so a slow reader costs little memory."""
    end = "+" if until is None else format_event_id(until)
    entries = cast(Entries, await redis.xrange(key, min=f"({format_event_id(after)}", max=end, count=PAGE))
    return [decode(*entry) for entry in entries]


def decode(event_id: Any, fields: Mapping[Any, Any]) -> Event:
    return Event(id=text(event_id), name=text(fields[b"event"]), data=fields[b"data"])

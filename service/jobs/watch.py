"""One reader's way through the events of a job: first those that Redis holds, then those that the hub delivers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from redis.asyncio import Redis

from service.jobs.connection import cancelled
from service.jobs.lua import text
from service.jobs.messages import ZERO, Event, EventId, Gone, Lagged, WatchEnded, format_event_id, parse_event_id

PAGE = 64
Entry = tuple[Any, Mapping[Any, Any]]
Push = Callable[[list[Event]], bool]


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a stream's events, in order. last: of the entries that were read, decodable or not. full: there may be
    more."""

    events: list[Event]
    last: EventId
    full: bool


class Hub(Protocol):
    """What a watch needs of the EventHub."""

    def events_key(self, job_id: str) -> str: ...

    async def newest(self, job_id: str) -> Event: ...

    async def page(self, key: str, after: EventId, until: EventId | None) -> Page: ...

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
        self._push: Push | None = None

    async def next(self, seconds: float | None = None, push: Push | None = None) -> list[Event]:
        """One or more events; none after so many seconds, and once the watch is finished.

        push: called at once, by the hub's task, with live events that come while this call waits, so that the caller's
        task need not wake for each of them. It must not block. If it returns False, this call returns, without events.

        Raises Gone, Lagged or HubClosed when the watch ends before the terminal event, and any error of push.
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
        return [] if self.finished else self._returned(await self._next_live(seconds, push))

    async def close(self) -> None:
        self._hub.detach(self._key, self)
        if self._page is not None:
            await cancelled(self._page)

    def offer(self, events: list[Event]) -> None:
        """Live events, in order. Never raises: other watches wait for the same events."""
        if self._ended is not None:
            return
        if self._push is not None and self._waiter is not None and not self._waiter.done():
            self._push_now(self._unseen(events), self._push, self._waiter)
        elif self._events and len(self._events) + len(events) > self._limit:
            self._events.clear()
            self.end(Lagged(f"more than {self._limit} events behind"))
        else:
            self._events.extend(events)
            self._wake()

    def end(self, why: WatchEnded) -> None:
        self._ended = self._ended or why
        self._wake()

    def _push_now(self, events: list[Event], push: Push, waiter: asyncio.Future[None]) -> None:
        if not events:
            return
        self._returned(events)
        try:
            taken = push(events)
        except Exception as error:
            waiter.set_exception(error)
        else:
            if self.finished or not taken:
                self._wake()

    async def _next_live(self, seconds: float | None, push: Push | None) -> list[Event]:
        while True:
            if not self._events and self._ended is None:
                await self._wait(seconds, push)
            if not self._events:
                if self._ended is not None and not self.finished:
                    raise self._ended
                return []
            events = self._unseen(self._events)
            self._events.clear()
            if events:
                return events

    def _unseen(self, events: Iterable[Event]) -> list[Event]:
        return [event for event in events if event.position > self._last]

    async def _wait(self, seconds: float | None, push: Push | None) -> None:
        """Not by asyncio.wait, which makes a task for each call."""
        loop = asyncio.get_running_loop()
        self._waiter, self._push = loop.create_future(), push
        timer = None if seconds is None else loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = self._push = None
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
        if not self._begun and self._after is not None:
            await self._begin_after(self._after)
        while not self._live and not self.finished:
            if not self._stored:
                await self._attach()
                continue
            page = await self._hub.page(self._key, self._last, self._until)
            if page.last == self._last and not self._begun:
                raise Gone(f"job {self._job_id} has no events (any more)")
            self._begun = True
            self._stored = page.full
            if page.events:
                return page.events
            self._last = max(self._last, page.last)
        return []

    async def _begin_after(self, after: str) -> None:
        """An id beyond this stream starts from the beginning; the terminal event's own id finishes at once."""
        newest, self._last = await self._hub.newest(self._job_id), parse_event_id(after)
        self._begun = True
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


class Endings:
    """Jobs whose end somebody waits for."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    @contextlib.contextmanager
    def waiting(self, job_id: str) -> Iterator[asyncio.Event]:
        end = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(end)
        try:
            yield end
        finally:
            waiting = self._waiting[job_id]
            waiting.remove(end)
            if not waiting:
                del self._waiting[job_id]

    def tell(self, job_id: str) -> None:
        for end in self._waiting.get(job_id, ()):
            end.set()


async def read_page(
    redis: Redis, key: str, after: EventId, until: EventId | None, skipped: Callable[[str, str], None]
) -> Page:
    """The first entries in (after, until] that Redis holds: page by page, so a slow reader costs little memory.

    skipped: called with the key and id of each entry that is no event.
    """
    end = "+" if until is None else format_event_id(until)
    entries = cast(list[Entry], await redis.xrange(key, min=f"({format_event_id(after)}", max=end, count=PAGE))
    events = decoded(key, entries, skipped)
    return Page(events, position_of(entries[-1]) if entries else after, full=len(entries) == PAGE)


def decoded(key: str, entries: Iterable[Entry], skipped: Callable[[str, str], None]) -> list[Event]:
    """The events of a stream's entries, without those that are none."""
    events = []
    for event_id, fields in entries:
        if event := decode(event_id, fields):
            events.append(event)
        else:
            skipped(key, text(event_id))
    return events


def decode(event_id: Any, fields: Mapping[Any, Any]) -> Event | None:
    """None: the entry is no event."""
    try:
        return Event(id=text(event_id), name=text(fields[b"event"]), data=fields[b"data"])
    except (KeyError, UnicodeDecodeError):
        return None


def position_of(entry: Entry) -> EventId:
    return parse_event_id(text(entry[0]))

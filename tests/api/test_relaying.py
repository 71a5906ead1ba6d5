"""Relaying a job's events to many readers: how often each is sent something, by which task, and in which order."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from starlette.types import Message

from service.api.presenter import event_frame
from service.api.routes import forks, health, jobs, models, sessions, tasks
from service.api.sse import EventStreamResponse
from service.jobs import Event
from service.jobs.messages import EventId
from service.jobs.watch import Page, Push, Watch
from service.metrics import Metrics

pytestmark = pytest.mark.anyio


def tokens(*sequences: int) -> list[Event]:
    return [Event(id=f"1-{i}", name="tokens", data=b'{"step":%d}' % i) for i in sequences]


@dataclass
class StoredHub:
    """Redis holds one event; all others come live, when a test offers them."""

    watches: set[Watch] = field(default_factory=set)

    def events_key(self, job_id: str) -> str:
        return job_id

    async def newest(self, job_id: str) -> Event:
        raise AssertionError("no watch here resumes")

    async def page(self, key: str, after: EventId, until: EventId | None) -> Page:
        return Page([Event(id="0-1", name="queued")], (0, 1), full=False)

    def attach(self, key: str, watch: Watch, last: EventId) -> EventId | None:
        self.watches.add(watch)
        return last

    def detach(self, key: str, watch: Watch) -> None:
        self.watches.discard(watch)

    async def notify(self) -> None:
        pass

    def offer(self, *events: Event) -> None:
        for watch in self.watches:
            watch.offer([*events])


class CountingWatch(Watch):
    """asked: how often its reader's task asked for more."""

    asked = 0

    async def next(self, seconds: float | None = None, push: Push | None = None) -> list[Event]:
        self.asked += 1
        return await super().next(seconds, push)


class Reader:
    """A client's connection. bodies: what it was sent, one for each send. reads: cleared while it reads nothing."""

    def __init__(self, hub: StoredHub, render: Callable[[Event], bytes]) -> None:
        self.bodies: list[bytes] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self._gone = asyncio.Event()
        self.watch = CountingWatch(hub, "a", None, 100)
        streams = Metrics(CollectorRegistry()).http_streams
        self._response = EventStreamResponse(self.watch, render, heartbeat=60, life=60, streams=streams)

    async def run(self) -> None:
        async def send(message: Message) -> None:
            await self.reads.wait()
            if message.get("body"):
                self.bodies.append(message["body"])

        async def receive() -> Message:
            await self._gone.wait()
            return {"type": "http.disconnect"}

        await self._response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)


async def settled() -> None:
    """Lets all tasks run until each waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_event_costs_each_reader_one_send_and_no_switch_to_its_task() -> None:
    hub = StoredHub()
    readers = [Reader(hub, partial(event_frame, job_id="a", root="")) for _ in range(50)]
    running = [asyncio.create_task(reader.run()) for reader in readers]
    await settled()
    assert all(len(reader.bodies) == 1 for reader in readers)
    tasks, asked = asyncio.all_tasks(), [reader.watch.asked for reader in readers]
    waiting = tokens(1, 2, 3)
    hub.offer(*waiting)
    assert [len(reader.bodies) for reader in readers] == [2] * 50, "it is sent at once, all three together"
    await settled()
    assert [reader.watch.asked for reader in readers] == asked, "a reader's task woke for an event"
    assert asyncio.all_tasks() == tasks
    assert all(body == b"".join(event.frames[""] for event in waiting) for body in (r.bodies[1] for r in readers))
    hub.offer(Event(id="1-4", name="failed", data=b'{"error":{}}'))
    await asyncio.wait_for(asyncio.gather(*running), 20)
    assert all(b"event: failed" in reader.bodies[-1] for reader in readers)
    assert hub.watches == set()


async def test_a_frame_is_made_once_for_all_readers() -> None:
    hub, made = StoredHub(), []

    def render(event: Event) -> bytes:
        frame = event_frame(event, "a", "/art")
        made.append(frame)
        return frame

    running = [asyncio.create_task(Reader(hub, render).run()) for _ in range(20)]
    await settled()
    made.clear()
    hub.offer(Event(id="1-1", name="completed", data=b'{"images":[{"index":0,"seed":1}]}'))
    await asyncio.wait_for(asyncio.gather(*running), 20)
    assert len(made) == 20
    assert len({id(frame) for frame in made}) == 1
    assert b'"url":"/art/v1/jobs/a/images/0"' in made[0]


async def test_what_a_slow_reader_has_not_taken_comes_later_in_order_and_joined() -> None:
    hub = StoredHub()
    slow, quick = (Reader(hub, partial(event_frame, job_id="a", root="")) for _ in range(2))
    running = [asyncio.create_task(reader.run()) for reader in (slow, quick)]
    await settled()
    slow.reads.clear()
    for i in range(1, 6):
        hub.offer(*tokens(i))
        await settled()
    assert (len(slow.bodies), len(quick.bodies)) == (1, 6), "a slow reader holds up nobody"
    hub.offer(Event(id="1-6", name="failed", data=b"{}"))
    slow.reads.set()
    await asyncio.wait_for(asyncio.gather(*running), 20)
    assert b"".join(slow.bodies) == b"".join(quick.bodies)
    assert len(slow.bodies) == 3, "the first, the one that had begun, and all others joined"


async def test_an_event_whose_data_nobody_can_read_comes_without_data() -> None:
    hub = StoredHub()
    reader = Reader(hub, partial(event_frame, job_id="a", root=""))
    running = asyncio.create_task(reader.run())
    await settled()
    hub.offer(Event(id="1-1", name="completed", data=b'{"images":[{"ind'))
    await asyncio.wait_for(running, 20)
    assert reader.bodies[1:] == [b"event: completed\ndata: {}\nid: 1-1\n\n"]


def test_no_route_and_no_dependency_runs_in_a_thread() -> None:
    """FastAPI runs what is not async in one of a few threads, where it waits for the interpreter's lock."""
    called: list[Callable[..., Any]] = []

    def walk(dependant: Dependant) -> None:
        called.extend([dependant.call] if dependant.call else [])
        for more in dependant.dependencies:
            walk(more)

    for topic in (forks, health, jobs, models, sessions, tasks):
        for route in topic.router.routes:
            assert isinstance(route, APIRoute)
            walk(route.dependant)
    assert len(called) > 20
    assert [call for call in called if not inspect.iscoroutinefunction(call)] == []

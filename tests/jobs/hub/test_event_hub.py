"""Watching a job: everything once, in order, from any point, however many watch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from service.jobs import Event, EventHub, Gone, HubClosed, Lagged, NewJob, Publication, Queue, QueueConfig, connect
from service.jobs.messages import encode_event
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.anyio
CONFIG = QueueConfig()


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[Queue]:
    client = connect(redis_url)
    queue = Queue(client, CONFIG)
    await queue.submit(NewJob(id="a", model="m", cost=1, spec=""))
    await queue.claim("m", "w", budget=1, limit=1, alone=True)
    yield queue
    await client.aclose()


async def say(queue: Queue, *sequences: int) -> None:
    said = [
        Publication(job_id="a", attempt=1, sequence=i, event="tokens", data=encode_event({"step": i}))
        for i in sequences
    ]
    assert set((await queue.publish(said)).values()) == {"ok"}


async def end(queue: Queue, sequence: int) -> None:
    await queue.finish("a", 1, sequence, state="succeeded", event="completed", data={"images": []})


async def collect(hub: EventHub, after: str | None = None) -> list[Event]:
    return [event async for event in hub.watch("a", after)]


def ids(events: list[Event]) -> list[str]:
    return [event.id for event in events]


async def test_replay_then_live_without_gap_or_repeat(hub: EventHub, queue: Queue) -> None:
    await say(queue, *range(1, 151))  # more than a page and more than the buffer
    watching = asyncio.create_task(collect(hub))
    for i in range(151, 301):
        await say(queue, i)
        if i % 10 == 0:
            await asyncio.sleep(0)
    await end(queue, 301)
    events = await asyncio.wait_for(watching, PATIENCE)
    assert ids(events) == ["0-1"] + [f"1-{i}" for i in range(1, 302)]
    assert (events[0].name, events[1].json(), events[-1].name) == ("queued", {"step": 1}, "completed")
    assert ids(await collect(hub)) == ids(events)  # a late reader finds the same, and ends


async def test_watchers_that_come_at_any_time_see_the_same(hub: EventHub, queue: Queue) -> None:
    watching = []
    for i in range(1, 61):
        await say(queue, i)
        if i % 3 == 0:
            watching.append(asyncio.create_task(collect(hub)))
            await asyncio.sleep(0.002)
    await end(queue, 61)
    seen = await asyncio.wait_for(asyncio.gather(*watching), PATIENCE)
    assert all(ids(events) == ["0-1"] + [f"1-{i}" for i in range(1, 62)] for events in seen)


async def test_resume_from_any_event(hub: EventHub, queue: Queue) -> None:
    await say(queue, *range(1, 11))
    first = hub.watch("a")
    seen = [await anext(first) for _ in range(5)]
    await first.aclose()
    watching = asyncio.create_task(collect(hub, seen[-1].id))
    await asyncio.sleep(0.05)
    await say(queue, 11)
    await end(queue, 12)
    rest = await asyncio.wait_for(watching, PATIENCE)
    assert ids(seen) + ids(rest) == ["0-1"] + [f"1-{i}" for i in range(1, 13)]
    assert await collect(hub, "1-12") == []  # nothing is left after the end
    for strange in ("", "yesterday", "7-7", "1-99999999999999999999999"):
        assert ids(await collect(hub, strange)) == ids(seen) + ids(rest)


async def test_a_new_attempt_follows_the_lost_one(hub: EventHub, queue: Queue) -> None:
    await say(queue, 1, 2, 3)
    watching = asyncio.create_task(collect(hub, "1-2"))
    await queue.release("a", 1)
    await queue.claim("m", "w2", budget=1, limit=1, alone=True)
    said = [Publication(job_id="a", attempt=2, sequence=1, event="started", data=encode_event({"attempt": 2}))]
    await queue.publish(said)
    await queue.finish("a", 2, 2, state="failed", event="failed", data={"error": {"code": "x"}})
    events = await asyncio.wait_for(watching, PATIENCE)
    assert [(e.id, e.name) for e in events] == [
        ("1-3", "tokens"),
        ("1-4", "queued"),
        ("2-1", "started"),
        ("2-2", "failed"),
    ]


async def test_a_slow_watcher_is_dropped_alone_and_resumes(hub: EventHub, queue: Queue) -> None:
    slow = hub.watch("a")
    seen = [await anext(slow)]
    fast = asyncio.create_task(collect(hub))
    await asyncio.sleep(0.05)
    waiting = asyncio.ensure_future(anext(slow))  # live now
    await say(queue, 1)
    seen.append(await waiting)
    for i in range(2, 141):
        await say(queue, i)
    await asyncio.sleep(0.2)
    with pytest.raises(Lagged):
        seen.extend([event async for event in slow])
    await end(queue, 141)
    everything = ids(await asyncio.wait_for(fast, PATIENCE))
    assert everything == ["0-1"] + [f"1-{i}" for i in range(1, 142)]
    assert ids(seen) + ids(await collect(hub, seen[-1].id)) == everything


async def test_a_new_watcher_is_heard_at_once(blocking: Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.event_hub.BLOCK_SECONDS", 60.0)
    hub = EventHub(blocking, CONFIG)
    await hub.start()
    await asyncio.sleep(0.1)  # the hub sleeps in a read of a minute that does not name this stream
    watching = hub.watch("a", "0-1")
    waiting = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0.1)
    await say(queue, 1)
    assert (await asyncio.wait_for(waiting, 20)).id == "1-1"
    await hub.close()


async def test_a_read_under_way_for_a_watcher_who_left_skips_nothing_for_the_next(
    hub: EventHub, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await say(queue, *range(1, 11))
    slow = hub.watch("a")
    seen = [await anext(slow) for _ in range(11)]  # all there is, and not attached yet
    other = hub.watch("a", "1-10")
    waiting = asyncio.ensure_future(anext(other))
    await asyncio.sleep(0.1)
    await say(queue, *range(11, 21))
    await waiting
    await asyncio.sleep(0.1)  # the hub now reads from 1-20 on
    await other.aclose()
    ring = hub.notify

    async def event_before_the_bell() -> None:
        await say(queue, 21)
        await asyncio.sleep(0.1)
        await ring()

    monkeypatch.setattr(hub, "notify", event_before_the_bell)
    async with asyncio.timeout(PATIENCE):
        seen += [await anext(slow) for _ in range(11)]
    assert ids(seen) == ["0-1"] + [f"1-{i}" for i in range(1, 22)]
    await slow.aclose()
    assert hub._followed == {}


async def test_a_hub_behind_its_new_watcher_repeats_nothing(
    hub: EventHub, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = asyncio.create_task(collect(hub))
    await asyncio.sleep(0.1)
    xread, opened = hub.redis.xread, asyncio.Event()

    async def late(*arguments: Any, **options: Any) -> Any:
        reply = await xread(*arguments, **options)
        await opened.wait()
        return reply

    monkeypatch.setattr(hub.redis, "xread", late)
    await say(queue, 1)  # ends the read that was under way
    await asyncio.sleep(0.1)
    await say(queue, *range(2, 11))
    second = asyncio.create_task(collect(hub))
    await asyncio.sleep(0.1)  # it has replayed all ten, of which the hub knows one
    opened.set()
    await end(queue, 11)
    for watching in (first, second):
        assert ids(await asyncio.wait_for(watching, PATIENCE)) == ["0-1"] + [f"1-{i}" for i in range(1, 12)]


async def test_expired_or_unknown_is_gone(hub: EventHub, queue: Queue) -> None:
    await queue.redis.delete(f"{CONFIG.prefix}events:a")
    with pytest.raises(Gone):
        await collect(hub)


async def test_events_that_vanish_under_a_watcher_are_gone(hub: EventHub, queue: Queue) -> None:
    watching = asyncio.create_task(collect(hub))
    await asyncio.sleep(0.1)
    await queue.redis.flushall()
    await hub._audit()  # every half a minute by itself
    with pytest.raises(Gone):
        await asyncio.wait_for(watching, PATIENCE)


async def test_close_ends_every_watch(blocking: Redis, queue: Queue) -> None:
    hub = EventHub(blocking, CONFIG)
    await hub.start()
    watching = [asyncio.create_task(collect(hub)) for _ in range(3)]
    await asyncio.sleep(0.1)
    await hub.close()
    for task in watching:
        with pytest.raises(HubClosed):
            await asyncio.wait_for(task, PATIENCE)
    with pytest.raises(HubClosed):
        await collect(hub)


async def test_the_hub_survives_a_lost_connection(hub: EventHub, queue: Queue) -> None:
    watching = asyncio.create_task(collect(hub))
    await asyncio.sleep(0.1)
    own = await queue.redis.client_id()
    for client in await queue.redis.client_list():
        if int(client["id"]) != own:
            with contextlib.suppress(Exception):
                await queue.redis.client_kill_filter(_id=client["id"])
    await say(queue, 1)
    await end(queue, 2)
    assert ids(await asyncio.wait_for(watching, PATIENCE)) == ["0-1", "1-1", "1-2"]


async def test_the_hub_survives_what_nobody_foresaw(
    hub: EventHub, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = asyncio.create_task(collect(hub))
    await asyncio.sleep(0.1)
    read = hub._read
    broken: list[Any] = []

    async def failing() -> None:
        if not broken:
            broken.append(True)
            raise KeyError("event")
        await read()

    monkeypatch.setattr(hub, "_read", failing)
    await say(queue, 1)  # ends the read that was under way
    await end(queue, 2)
    assert ids(await asyncio.wait_for(watching, PATIENCE)) == ["0-1", "1-1", "1-2"]
    assert broken


async def test_a_reader_need_not_find_the_previews_that_another_saw(hub: EventHub, queue: Queue) -> None:
    watching = asyncio.create_task(collect(hub))
    await asyncio.sleep(0.1)
    for sequence in (1, 2):
        shown = {"image_index": 0, "step": sequence}
        await queue.publish(
            [Publication(job_id="a", attempt=1, sequence=sequence, event="preview", data=encode_event(shown))]
        )
        await asyncio.sleep(0.1)
    assert ids([event async for event in hub.stored_events("a")]) == ["0-1", "1-2"]
    await end(queue, 3)
    assert ids(await asyncio.wait_for(watching, PATIENCE)) == ["0-1", "1-1", "1-2", "1-3"]
    for after in (None, "1-1", "1-2"):  # whose id is not there any more
        assert ids(await collect(hub, after)) == (["0-1"] if after is None else []) + ["1-3"]

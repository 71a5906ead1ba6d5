"""Many readers of one job, and entries that nobody can read: neither stops the hub."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from service.jobs import Event, EventHub, Queue, connect
from tests.jobs.hub.test_event_hub import collect, end, ids, say
from tests.support.queue import CONFIG, new, take
from tests.support.waiting import PATIENCE, soon

pytestmark = pytest.mark.anyio


@pytest.fixture
async def queue(queue: Queue) -> Queue:
    """With a job that runs."""
    await queue.submit(new("a"))
    await take(queue)
    return queue


async def test_many_readers_leave_the_event_loop_to_others_every_5_ms(
    hub: EventHub, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, sleep, heard = [0.0], asyncio.sleep, list[str]()

    def push(events: list[Event]) -> bool:
        now[0] += 0.001  # each reader's send takes so long
        heard.extend("send" for _ in events)
        return True

    async def paused(seconds: float) -> None:
        heard.append("pause")
        now[0] += seconds
        await sleep(0)

    watches = [hub.follow("a") for _ in range(60)]
    for watch in watches:
        assert ids(await watch.next()) == ["0-1"]
    waiting = [asyncio.create_task(watch.next(None, push)) for watch in watches]
    assert await soon(lambda: all(watch._live for watch in watches))
    await sleep(0.05)  # all wait for live events
    monkeypatch.setattr("service.jobs.event_hub.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("service.jobs.event_hub.asyncio.sleep", paused)
    await say(queue, 1)
    assert await soon(lambda: heard.count("send") == 60)
    monkeypatch.undo()
    assert max(len(run) for run in "".join(what[0] for what in heard).split("p")) == 5
    await end(queue, 2)
    assert await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE) == [[]] * 60
    assert all(watch.finished for watch in watches)


async def test_an_entry_that_is_no_event_is_skipped_and_counted_and_logged_once(
    blocking: Redis, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    skipped: list[str] = []
    hub = EventHub(blocking, CONFIG, skipped=lambda: skipped.append("one"))
    await hub.start()
    watching = asyncio.create_task(collect(hub))
    await asyncio.sleep(0.1)  # live
    await say(queue, 1)
    strange: list[dict[Any, Any]] = [{"what": "this"}, {"event": b"\xff", "data": "{}"}]
    for sequence, fields in enumerate(strange, 2):
        await queue.redis.xadd(hub.events_key("a"), fields, id=f"1-{sequence}")
    assert await soon(lambda: len(skipped) == 2), "the hub reads on"
    late = asyncio.create_task(collect(hub, "1-2"))  # finds them in Redis
    await asyncio.sleep(0.1)
    await say(queue, 4)
    await end(queue, 5)
    assert ids(await asyncio.wait_for(watching, PATIENCE)) == ["0-1", "1-1", "1-4", "1-5"]
    assert ids(await asyncio.wait_for(late, PATIENCE)) == ["1-4", "1-5"]
    assert ids(await collect(hub)) == ["0-1", "1-1", "1-4", "1-5"]
    assert ids([event async for event in hub.stored_events("a")]) == ["0-1", "1-1", "1-4", "1-5"]
    assert (len(skipped), len([line for line in caplog.messages if "is skipped" in line])) == (2, 2)
    assert not [line for line in caplog.messages if "reading again" in line], "the hub was in its back-off"
    await hub.close()


async def test_a_hub_without_redis_tries_often_and_says_so_rarely(caplog: pytest.LogCaptureFixture) -> None:
    redis = connect("unix:///nowhere/redis", blocking=True, retries=0)
    hub, tries = EventHub(redis, CONFIG), 0
    read = hub._read

    async def counted() -> None:
        nonlocal tries
        tries += 1
        await read()

    hub._read = counted  # type: ignore[method-assign]
    await hub.start()
    assert await soon(lambda: tries == 4)  # after 0, 0.1, 0.3 and 0.7 s
    await hub.close()
    lines = [line for line in caplog.messages if line.startswith("event hub: ")]
    assert len(lines) < 3, lines
    await redis.aclose()


async def test_a_stream_that_ends_with_no_event_can_be_followed(hub: EventHub, queue: Queue) -> None:
    await queue.redis.xadd(hub.events_key("a"), {"what": "this"}, id="1-1")
    watching = [asyncio.create_task(collect(hub, after)) for after in (None, "0-1", "1-1")]
    await asyncio.sleep(0.1)
    await end(queue, 2)
    seen = await asyncio.wait_for(asyncio.gather(*watching), PATIENCE)
    assert [ids(events) for events in seen] == [["0-1", "1-2"], ["1-2"], ["1-2"]]


async def test_readers_who_come_together_share_the_reading_of_a_page(
    hub: EventHub, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await say(queue, *range(1, 101))
    await end(queue, 101)
    xrange, asked = hub.redis.xrange, list[Any]()

    async def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(options["min"])
        return await xrange(*arguments, **options)

    monkeypatch.setattr(hub.redis, "xrange", counted)
    seen = await asyncio.gather(*(collect(hub) for _ in range(20)))
    assert all(ids(events) == ["0-1"] + [f"1-{i}" for i in range(1, 102)] for events in seen)
    assert asked == ["(0-0", "(1-63"]


async def test_the_end_of_a_job_is_told_to_those_who_wait_for_it_alone(hub: EventHub, queue: Queue) -> None:
    await queue.submit(new("b"))
    with hub.ending("a") as first, hub.ending("a") as second, hub.ending("b") as other:
        await queue.redis.xadd(f"{CONFIG.prefix}ended", {"what": b"\xff"})
        await end(queue, 1)
        await asyncio.wait_for(asyncio.gather(first.wait(), second.wait()), PATIENCE)
        assert not other.is_set()
        await queue.cancel("b")
        await asyncio.wait_for(other.wait(), PATIENCE)
    assert hub._endings._waiting == {}
    assert (await queue.state("a"), await queue.state("b"), await queue.state("c")) == ("succeeded", "canceled", None)

"""What a client may have of the queue: so many jobs at once, and a share that its priorities divide."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from service.jobs import Queue, QueueConfig, QueueFull, QuotaFull
from tests.support.queue import events, lose_leases, new, stored_job, take, unfinished

pytestmark = pytest.mark.anyio


async def test_a_client_has_no_more_jobs_at_once_than_its_quota_over_all_models(queue: Queue) -> None:
    await queue.submit(new("a", "x", quota=2))
    await queue.submit(new("b", "x", quota=2, model="other"))
    with pytest.raises(QuotaFull) as full:
        await queue.submit(new("c", "x", quota=2))
    assert full.value.limit == 2
    assert not isinstance(full.value, QueueFull)
    assert await queue.job("c") is None
    assert not (await queue.submit(new("a", "x", quota=2))).created  # a repeat needs no room
    assert (await queue.submit(new("d", "y", quota=2))).created
    assert (await queue.submit(new("e", "x"))).created  # without a quota
    assert await take(queue) == ["a"]
    with pytest.raises(QuotaFull):  # what runs counts too
        await queue.submit(new("c", "x", quota=3))
    await queue.finish("a", 1, 1, state="succeeded", event="completed", data={})
    assert (await queue.submit(new("c", "x", quota=3))).created


async def test_of_many_at_once_no_more_are_taken_than_the_quota(queue: Queue) -> None:
    taken = await asyncio.gather(*(queue.submit(new(f"a{i}", "x", quota=3)) for i in range(9)), return_exceptions=True)
    assert sum(isinstance(answer, QuotaFull) for answer in taken) == 6
    assert await queue.depth("m") == 3


async def test_a_client_over_its_quota_is_told_so_even_when_the_queue_is_full(redis: Redis) -> None:
    queue = Queue(redis, QueueConfig(max_queued=1))
    await queue.submit(new("a", "x"))
    with pytest.raises(QuotaFull):
        await queue.submit(new("b", "x", quota=1))
    with pytest.raises(QueueFull):
        await queue.submit(new("b", "x", quota=2))


@pytest.mark.parametrize(
    "end", ["finished", "canceled", "canceled and released", "canceled and lost", "released", "poison", "engine"]
)
async def test_however_a_job_ends_its_place_is_given_back_once(queue: Queue, end: str) -> None:
    await queue.submit(new("other", "x", model="other"))
    await queue.submit(new("a", "x"))
    if end != "canceled":
        await take(queue)
    if end == "finished":
        for _ in range(2):
            await queue.finish("a", 1, 1, state="failed", event="failed", data={})
    elif end == "released":
        for _ in range(2):
            await queue.release("a", 1)
        assert await unfinished(queue) == {"x": 2}  # it goes on
        await queue.cancel("a")
    elif end == "poison":
        for _ in range(4):
            await lose_leases(queue)
            await take(queue, empty=True)
    elif end == "engine":
        for attempt in range(1, 5):
            await queue.quarantine("a", attempt, "engine_failed", "")
            await take(queue, empty=True)
    else:
        for _ in range(2):
            await queue.cancel("a")
        for _ in range(2):
            await lose_leases(queue) if end == "canceled and lost" else await queue.release("a", 1)
            await take(queue, empty=True)
    job = await stored_job(queue, "a")
    assert job.state in ("failed", "canceled")
    assert await unfinished(queue) == {"x": 1}
    assert len([name for _, name in await events(queue, "a") if name != "queued"]) == 1


async def test_a_high_priority_overtakes_the_clients_own_backlog(queue: Queue) -> None:
    for i in range(6):
        await queue.submit(new(f"n{i}", "x"))
    assert await take(queue) == ["n0"]
    await queue.submit(new("a-low", "x", priority="low"))
    for i in range(6):
        await queue.submit(new(f"h{i}", "x", priority="high"))
    order = await take(queue, 5)
    assert order.count("a-low") == 1  # it starts at once, and pays for it with its next one
    assert [job_id for job_id in order if job_id[0] == "h"] == ["h0", "h1", "h2", "h3"]


async def test_priorities_divide_by_their_weights_and_none_starves(queue: Queue) -> None:
    for i in range(33):
        for priority in ("low", "normal", "high"):
            await queue.submit(new(f"{priority}{i}", "x", priority=priority))
    order = [job_id.rstrip("0123456789") for job_id in await take(queue, 42)]
    assert [order.count(priority) for priority in ("low", "normal", "high")] == [2, 8, 32]


async def test_another_clients_share_does_not_depend_on_mine(queue: Queue) -> None:
    for i in range(20):
        await queue.submit(new(f"x{i}", "x", priority="low"))
    await take(queue)
    for i in range(8):
        await queue.submit(new(f"y{i}", "y"))
    order = "".join([job_id[0] for job_id in await take(queue, 9)])
    assert order.count("y") >= 7


def test_strange_priorities_and_quotas_are_refused() -> None:
    for fields in ({"priority": "urgent"}, {"quota": -1}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            new("a", **fields)

"""A job that nobody draws, because its model is served no more, does not wait for ever."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from service.jobs import BlobStore, EndedJob, EventHub, NewJob, Queue, QueueConfig, connect
from tests.support.queue import CONFIG, events, lose_leases, new, said, stored_job, take, unfinished, waiting

pytestmark = pytest.mark.anyio
UNENDED = f"{CONFIG.prefix}unended"


@pytest.fixture
def hasty(redis: Redis) -> Queue:
    """Every job has waited too long when it is sent."""
    return Queue(redis, QueueConfig(lease_seconds=100, held_seconds=0.001))


async def age(queue: Queue, *ids: str) -> None:
    """A day has passed for them."""
    await queue.redis.zadd(UNENDED, dict.fromkeys(ids, 1))


async def test_who_has_waited_too_long_fails_and_gives_back_what_it_held(queue: Queue) -> None:
    blobs = BlobStore(queue.redis, CONFIG)
    await blobs.put("a/image", b"upload")
    await queue.submit(NewJob(id="a", model="m", cost=1, spec="a", blobs=("a/image",)))
    await queue.submit(new("b"))
    assert await queue.expire() == []
    await age(queue, "a")
    [ended] = await queue.expire()
    assert (ended.id, ended.state, ended.spec, ended.code) == ("a", "failed", "a", "expired_waiting")
    job = await stored_job(queue, "a")
    assert (job.state, job.error and job.error["code"]) == ("failed", "expired_waiting")
    assert [name for _, name in await events(queue, "a")] == ["queued", "failed"]
    assert await waiting(queue) == (["b"], [])
    assert await unfinished(queue) == {"local": 1}
    assert await blobs.bytes_used() == 0
    assert 0 < await queue.redis.ttl(f"{CONFIG.prefix}job:a") <= CONFIG.result_ttl_seconds
    assert await queue.expire() == []


async def test_of_every_model_and_a_few_at_a_time(hasty: Queue) -> None:
    for index in range(10):
        await hasty.submit(new(f"j{index}", model=f"m{index % 2}"))
    found = [len(await hasty.expire()) for _ in range(3)]
    assert sum(found) == 10
    assert max(found) <= 8


async def test_who_is_drawn_is_left_alone_and_who_lost_its_worker_is_not(queue: Queue) -> None:
    for job_id in ("a", "b", "c"):
        await queue.submit(new(job_id))
    await take(queue, 3)
    await queue.cancel("c")
    await age(queue, "a", "b", "c")
    assert await queue.expire() == []
    await lose_leases(queue)  # and there is no worker to find that out
    await age(queue, "a", "b", "c")
    await queue.publish([said("a", 1, 1)])
    assert {(job.id, job.state) for job in await queue.expire()} == {("b", "failed"), ("c", "canceled")}
    assert await queue.finish("a", 1, 2, state="succeeded", event="completed", data={}) == "ok"
    assert not await queue.redis.exists(UNENDED)


async def test_a_replica_sweeps_where_no_worker_is(hasty: Queue, redis_url: str) -> None:
    names = [f"j{index}" for index in range(20)]
    for name in names:
        await hasty.submit(new(name))
    blocking = connect(redis_url, blocking=True)
    try:
        swept: list[EndedJob] = []
        await EventHub(blocking, hasty.config, swept=swept.append)._audit()  # every half a minute by itself
    finally:
        await blocking.aclose()
    assert sorted(job.id for job in swept) == sorted(names)
    assert {(await stored_job(hasty, name)).state for name in names} == {"failed"}


async def test_a_repeated_request_gets_the_job_of_the_first_as_long_as_it_is_kept(queue: Queue) -> None:
    first, again, other = (new(job_id, repeats="key") for job_id in "abc")
    assert (await queue.submit(first)).created
    repeated = await queue.submit(again)
    assert (repeated.id, repeated.created, repeated.state) == ("a", False, "queued")
    await take(queue)
    await queue.finish("a", 1, 1, state="succeeded", event="completed", data={})
    assert (await queue.submit(again)).state == "succeeded"
    assert (job := await queue.repeated("key")) is not None
    assert job.id == "a"
    await queue.redis.delete(f"{CONFIG.prefix}job:a")  # expired
    assert await queue.repeated("key") is None
    assert ((await queue.submit(other)).id, await queue.state("b")) == ("c", None)

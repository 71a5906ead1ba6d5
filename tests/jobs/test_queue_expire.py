"""A job that nobody draws, because its model is served no more or its start deadline is over, does not wait."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from service.jobs import BlobStore, EndedJob, EventHub, NewJob, Queue, QueueConfig, connect
from tests.support.queue import CONFIG, events, lose_leases, new, said, stored_job, take, unfinished, waiting
from tests.support.waiting import soon

pytestmark = pytest.mark.anyio
UNENDED = f"{CONFIG.prefix}unended"
UNSTARTED = f"{CONFIG.prefix}unstarted"


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


async def test_the_age_of_the_oldest_waiting_job_whatever_its_place_in_the_queue(queue: Queue) -> None:
    assert await queue.oldest() == {}
    await queue.submit(new("late", cost=1000))
    await queue.submit(new("early"))  # behind it, as the same client's
    await queue.submit(new("other", model="other"))
    for job_id, seconds in (("late", 50), ("early", 70), ("other", 5)):
        created = int((await stored_job(queue, job_id)).created_at * 1000) - seconds * 1000
        await queue.redis.hset(f"{CONFIG.prefix}job:{job_id}", "created_at", created)
    ages = await queue.oldest()
    assert (ages["m"], ages["other"]) == (pytest.approx(70, abs=2), pytest.approx(5, abs=2))
    assert await take(queue, 2) == ["late", "early"]
    assert (await queue.oldest())["m"] == 0
    await lose_leases(queue)
    await take(queue)  # poison candidates wait too
    assert (await queue.oldest())["m"] == pytest.approx(70, abs=2)


# ---- start deadlines -----------------------------------------------------------------------------------------------


async def pass_deadline(queue: Queue, *ids: str) -> None:
    """Their time to start is over."""
    for job_id in ids:
        await queue.redis.hset(f"{CONFIG.prefix}job:{job_id}", "start_by", 1)
        await queue.redis.zadd(UNSTARTED, {job_id: 1})


async def test_a_job_never_starts_after_its_deadline_however_many_are_late(queue: Queue) -> None:
    for index in range(70):  # more than one sweep ends
        await queue.submit(new(f"late{index}", "x", start_seconds=1000.0))
    await queue.submit(new("patient", "x"))
    await queue.submit(new("early", "x", start_seconds=1000.0))
    await pass_deadline(queue, *(f"late{index}" for index in range(70)))
    claims = await queue.claim("m", "w", budget=10_000, limit=5, alone=False, nonce="lost reply")
    assert [claim.id for claim in claims] == ["patient", "early"]
    assert {(ended.state, ended.code) for ended in claims.ended} == {("failed", "start_timeout")}
    assert len(claims.ended) == 70
    again = await queue.claim("m", "w", budget=10_000, limit=5, alone=False, nonce="lost reply")
    assert ([claim.id for claim in again], len(again.ended)) == (["patient", "early"], 70)
    job = await stored_job(queue, "late0")
    assert (job.state, job.attempt, job.error and job.error["code"]) == ("failed", 0, "start_timeout")
    assert [name for _, name in await events(queue, "late0")] == ["queued", "failed"]
    assert await unfinished(queue) == {"x": 2}
    assert not await queue.redis.exists(UNSTARTED)


async def test_a_job_that_has_started_has_no_deadline_any_more(queue: Queue) -> None:
    await queue.submit(new("a", start_seconds=1000.0))
    assert await take(queue) == ["a"]
    await pass_deadline(queue, "a")
    assert await queue.expire_unstarted() == []
    await queue.release("a", 1)
    await pass_deadline(queue, "a")
    assert await take(queue) == ["a"]
    await queue.quarantine("a", 2, "engine_failed", "")
    await pass_deadline(queue, "a")
    assert await take(queue, empty=True) == ["a"]


async def test_a_late_job_does_not_wait_for_a_worker_that_has_no_room_or_for_none(queue: Queue) -> None:
    for job_id in ("big", "late", "other"):
        await queue.submit(new(job_id, cost=100, start_seconds=None if job_id == "big" else 0.001))
    await asyncio.sleep(0.01)
    claims = await queue.claim("m", "w", budget=0, limit=5, alone=False)
    assert ([*claims], {ended.id for ended in claims.ended}) == ([], {"late", "other"})
    await queue.submit(new("last", start_seconds=0.001))
    [ended] = await soon(queue.expire_unstarted)
    assert (ended.id, ended.code) == ("last", "start_timeout")
    job = await stored_job(queue, "last")
    assert job.start_by is not None
    assert job.created_at < job.start_by <= (job.finished_at or 0)
    assert "0.001 seconds of X-Start-Timeout" in (job.error or {})["message"]


async def test_a_late_job_gives_its_place_back(queue: Queue) -> None:
    """The client's next job does not queue behind one that was never drawn."""
    await queue.submit(new("x1", "x", cost=1000, start_seconds=1000.0))
    await queue.submit(new("y1", "y", cost=10))
    await queue.submit(new("y2", "y", cost=10))
    await pass_deadline(queue, "x1")
    await queue.expire_unstarted()
    await queue.submit(new("x2", "x"))
    assert sorted(await take(queue, 2)) == ["x2", "y1"]

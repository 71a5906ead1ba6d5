"""What can be read of jobs: a client's list, and when a job will probably end."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from service.jobs import Queue, QueueConfig
from tests.support.queue import CONFIG, decoded, lose_leases, new, said, stored_job, take

pytestmark = pytest.mark.anyio


async def listed(queue: Queue, client: str = "x", **asked: object) -> list[str]:
    """All pages, one job after another."""
    found: list[str] = []
    cursor = None
    while True:
        page = await queue.jobs_of(client, limit=3, cursor=cursor, **asked)  # type: ignore[arg-type]
        assert len(page.jobs) <= 3
        found += [job.id for job in page.jobs]
        cursor = page.cursor
        if cursor is None:
            return found


async def finish(queue: Queue, job_id: str, attempt: int = 1) -> None:
    assert await queue.finish(job_id, attempt, 9, state="succeeded", event="completed", data={}) == "ok"


# ---- lists ---------------------------------------------------------------------------------------------------------


async def test_a_list_has_every_job_of_its_client_once_the_newest_first(queue: Queue) -> None:
    names = [f"j{7 * index % 10}" for index in range(10)]
    for name in names:  # several in one millisecond
        await queue.submit(new(name, "x", model=f"m{int(name[1:]) % 2}", about={"n": int(name[1:])}))
        await queue.submit(new(name, "x"))  # a repeat is no other job
        await queue.submit(new(f"other-{name}", "y"))
    assert await listed(queue) == names[::-1]
    first = await queue.jobs_of("x", limit=4)
    await queue.submit(new("new", "x"))  # a job that comes while a client turns the pages moves none of them
    rest = await queue.jobs_of("x", limit=100, cursor=first.cursor)
    assert [job.id for job in (*first.jobs, *rest.jobs)] == names[::-1]
    assert rest.cursor is None
    [newest] = (await queue.jobs_of("x", limit=1, cursor=first.cursor)).jobs
    number = int(newest.id[1:])
    assert (newest.model, newest.state, newest.about) == (f"m{number % 2}", "queued", {"n": number})
    assert newest.position == [name for name in names if int(name[1:]) % 2 == number % 2].index(newest.id)


async def test_a_list_can_be_of_one_state(queue: Queue) -> None:
    for index in range(9):
        await queue.submit(new(f"j{index}", "x"))
    running = await take(queue, 4)
    await finish(queue, running[0])
    await queue.cancel("j8")
    assert await listed(queue, state="running") == sorted(running[1:], reverse=True)
    assert await listed(queue, state="succeeded") == running[:1]
    assert await listed(queue, state="queued") == ["j7", "j6", "j5", "j4"]
    assert await listed(queue, state="canceled") == ["j8"]
    assert await listed(queue, state="failed") == []
    assert await listed(queue, "nobody") == []


async def test_a_list_ends_with_its_last_job_and_forgets_those_that_expired(redis: Redis) -> None:
    queue = Queue(redis, QueueConfig(lease_seconds=100, result_ttl_seconds=0.05))
    key = f"{queue.config.prefix}jobs_of:x"
    await queue.submit(new("old", "x"))
    await queue.submit(new("waits", "x"))
    assert await take(queue) == ["old"]
    await finish(queue, "old")
    assert await redis.pttl(key) == -1  # a job has not ended
    await asyncio.sleep(0.1)
    assert await listed(queue) == ["waits"]
    await queue.submit(new("next", "x"))
    assert {decoded(name) for name in await redis.zrange(key, 0, -1)} == {"waits", "next"}
    await queue.cancel("waits")
    await queue.cancel("next")
    await queue.submit(new("last", "x"))
    assert [await redis.pttl(name) for name in (key, f"{queue.config.prefix}ended_of:x")] == [-1, -1]
    await queue.cancel("last")
    assert 0 < await redis.pttl(key) <= 50
    await asyncio.sleep(0.1)
    assert await redis.keys(f"{queue.config.prefix}*_of:x") == []


async def test_a_list_is_bounded_by_its_oldest_ended_jobs(redis: Redis) -> None:
    queue = Queue(redis, QueueConfig(lease_seconds=100, max_listed=4))
    for index in range(3):
        await queue.submit(new(f"j{index}", "x"))
    await queue.cancel("j1")
    await queue.cancel("j0")
    for index in range(3, 8):
        await queue.submit(new(f"j{index}", "x"))
    assert await listed(queue) == ["j7", "j6", "j5", "j4", "j3", "j2"]  # those that have not ended all stay
    assert await queue.job("j0") is not None


# ---- estimates -----------------------------------------------------------------------------------------------------


async def test_an_estimate_follows_the_pace_of_the_last_jobs(queue: Queue) -> None:
    """Half a second for each unit of effort, and a job claimed every second while others wait."""
    for index in range(3):
        await queue.submit(new(f"j{index}", effort=10))
    assert (await stored_job(queue, "j0")).eta_seconds is None  # nothing was drawn yet
    pace = f"{CONFIG.prefix}pace:{queue.config.line('m')}"
    await take(queue)
    job = f"{CONFIG.prefix}job:j0"
    await queue.redis.hincrby(job, "started_at", -5000)
    await finish(queue, "j0")
    assert (await stored_job(queue, "j1")).eta_seconds is None  # nobody knows when it is claimed
    await queue.redis.hincrby(pace, "left_at", -1000)
    assert await take(queue) == ["j1"]
    running, last = await stored_job(queue, "j1"), await stored_job(queue, "j2")
    assert running.eta_seconds == pytest.approx(5, abs=1)
    assert last.eta_seconds == pytest.approx(5 + 1, abs=1)
    assert (await stored_job(queue, "j0")).eta_seconds is None  # it has ended
    assert 0 < await queue.redis.pttl(pace) <= 600_000


async def test_no_estimate_is_made_up(queue: Queue) -> None:
    pace = f"{CONFIG.prefix}pace:{queue.config.line('m')}"
    for index in range(3):
        await queue.submit(new(f"j{index}", effort=10))
    await take(queue)
    await queue.redis.hset(pace, mapping={"run": 100.0, "gap": 100.0})
    assert (await stored_job(queue, "j0")).eta_seconds == pytest.approx(1, abs=1)
    await queue.redis.hincrby(f"{CONFIG.prefix}job:j0", "started_at", -5000)
    assert (await stored_job(queue, "j0")).eta_seconds is None  # later than the last jobs tell
    await lose_leases(queue)
    await queue.redis.zadd(f"{CONFIG.prefix}lines", {queue.config.line("m"): (time.time() - 1000) * 1000})
    assert (await stored_job(queue, "j1")).eta_seconds is None  # no worker claims


async def test_a_running_job_is_estimated_by_its_own_steps(queue: Queue) -> None:
    """Of two pictures, one draws a step in 100 ms, the other in 200 ms; one began at a step of its parent."""
    await queue.submit(new("a", about={"n": 2}))
    await take(queue)

    async def draw(sequence: int, image: int, step: int) -> None:
        data: dict[str, Any] = {"image_index": image, "step": step, "steps": 20, "positions": [], "tokens": []}
        assert await queue.publish([said("a", 1, sequence, **data)]) == {("a", 1): "ok"}

    async def estimate() -> float | None:
        return (await stored_job(queue, "a")).eta_seconds

    async def pass_time(image: int, ms: int) -> None:
        """So much longer ago its first tokens came."""
        job, field = f"{CONFIG.prefix}job:a", f"progress:{image}"
        attempt, first, at, *last = decoded(await queue.redis.hget(job, field)).split()
        await queue.redis.hset(job, field, " ".join([attempt, first, str(int(at) - ms), *last]))

    await draw(1, 0, 1)
    await draw(2, 0, 11)
    await pass_time(0, 1000)
    assert await estimate() is None  # the second picture may wait for room
    await draw(3, 1, 10)  # its first tokens are its parent's
    assert await estimate() is None
    await draw(4, 1, 12)
    await pass_time(1, 400)
    assert await estimate() == pytest.approx(200 * (20 - 12) / 1000, abs=0.5)
    await draw(5, 0, 20)
    await draw(6, 1, 20)
    assert await estimate() is None  # its files are made, and nobody knows for how long
    await lose_leases(queue)
    await take(queue, empty=True)
    assert (await stored_job(queue, "a")).attempt == 2
    assert await estimate() is None  # steps of an attempt that was lost tell nothing


async def test_pace_is_measured_only_while_jobs_wait(queue: Queue) -> None:
    pace = f"{CONFIG.prefix}pace:{queue.config.line('m')}"
    await queue.submit(new("a"))
    await take(queue)
    await queue.submit(new("b"))
    await take(queue)
    assert await queue.redis.hget(pace, "gap") is None
    for index in range(5):
        await queue.submit(new(f"j{index}"))
    await take(queue, 1)
    await queue.redis.hincrby(pace, "left_at", -4000)
    await take(queue, 2)
    assert float(decoded(await queue.redis.hget(pace, "gap"))) == pytest.approx(2000, rel=0.2)

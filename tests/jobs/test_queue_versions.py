"""During a rolling update, each version of a worker gets the jobs that it can read, and no job waits for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from service.jobs import ModelLoad, Queue
from service.jobs.spec import SPEC_VERSION
from tests.support.queue import CONFIG, events, lose_leases, new, take

pytestmark = pytest.mark.anyio
OLD = SPEC_VERSION - 1


@pytest.fixture
def older(redis: Redis) -> Queue:
    """The queue as the version before this one sees it."""
    return Queue(redis, replace(CONFIG, spec_version=OLD))


async def test_a_worker_gets_only_jobs_of_its_own_version(queue: Queue, older: Queue) -> None:
    for index in range(3):
        await older.submit(new(f"old-{index}"))
        await queue.submit(new(f"new-{index}"))
    assert await take(queue, 9, worker="new") == ["new-0", "new-1", "new-2"]
    assert await take(older, 9, worker="old") == ["old-0", "old-1", "old-2"]


async def test_a_job_keeps_its_version_whatever_happens_to_it(queue: Queue, older: Queue) -> None:
    for job_id in ("released", "lost"):
        await older.submit(new(job_id))
    assert await take(older, 9, worker="old") == ["released", "lost"]
    await queue.release("released", 1)  # by whichever version of the code
    await lose_leases(older)
    assert await take(queue, 9, worker="new", empty=True) == []
    assert await take(older, 9, worker="old", empty=True) == ["lost"]  # it may be why its worker was lost
    assert await take(older, 9, worker="old") == ["released"]


async def test_jobs_of_every_version_are_known_counted_and_cancelled(queue: Queue, older: Queue) -> None:
    await older.submit(new("old"))
    await older.submit(new("older"))
    await queue.submit(new("new"))
    await take(queue)
    assert await queue.stats() == {"m": ModelLoad(queued=2, running=1)}
    assert (await queue.depth("m"), await older.depth("m")) == (0, 2)
    found = await queue.job("older")
    assert found is not None
    assert (found.model, found.position) == ("m", 1)
    assert await queue.cancel("older") == "canceled"
    assert await queue.stats() == {"m": ModelLoad(queued=1, running=1)}


async def test_jobs_that_no_worker_reads_any_more_end_with_their_own_code(queue: Queue, older: Queue) -> None:
    for job_id in ("ready", "lost", "cancelled"):
        await older.submit(new(job_id))
    await older.submit(new("elsewhere", model="another"))
    await take(older, 3, worker="old")
    await older.release("ready", 1)
    await queue.cancel("cancelled")
    await queue.submit(new("new"))
    await take(queue, worker="new")
    assert await queue.expire() == []  # a worker of the job's version may come back
    await queue.redis.zincrby(f"{CONFIG.prefix}lines", -1000 * CONFIG.unread_seconds - 1000, older.config.line("m"))
    assert [job.id for job in await queue.expire()] == ["ready"]  # the other two are still drawn
    await lose_leases(older)
    assert {(job.id, job.state) for job in await queue.expire()} == {("lost", "failed"), ("cancelled", "canceled")}
    for job_id in ("ready", "lost"):
        found = await queue.job(job_id)
        assert found is not None
        assert found.error is not None
        assert found.error["code"] == "unsupported_job_version"
        assert "again" in found.error["message"]
        assert (await events(queue, job_id))[-1][1] == "failed"
    assert await queue.stats() == {"m": ModelLoad(queued=0, running=1), "another": ModelLoad(queued=1, running=0)}

"""Who was there when a worker was lost is drawn again with nothing beside it: then it shows whose fault it was."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from service.jobs import Queue, QueueConfig, QueueFull
from tests.support.queue import CONFIG, events, lose_leases, new, said, stored_job, take, unfinished, waiting

pytestmark = pytest.mark.anyio


@pytest.fixture
def patient(redis: Redis) -> Queue:
    """Poison candidates wait for as long as it takes."""
    return Queue(redis, QueueConfig(lease_seconds=100, quarantine_seconds=1000))


async def lost_together(queue: Queue, *ids: str) -> None:
    for job_id in ids:
        await queue.submit(new(job_id))
    assert await take(queue, len(ids), worker="dead") == list(ids)
    await lose_leases(queue)


async def test_candidates_go_only_to_a_worker_that_holds_nothing_and_one_at_a_time(patient: Queue) -> None:
    await lost_together(patient, "a", "b")
    await patient.submit(new("c"))
    assert await take(patient, 5, worker="busy") == ["c"]
    assert await waiting(patient) == ([], ["a", "b"])
    assert await patient.depth("m") == 2
    assert (await patient.stats())["m"].queued == 2
    b = await stored_job(patient, "b")
    assert (b.state, b.position) == ("queued", 1)
    await patient.submit(new("d"))
    claims = await patient.claim("m", "empty", budget=0, limit=5, alone=True, empty=True)
    assert [(claim.id, claim.alone) for claim in claims] == [("a", True)]  # d would have fitted beside it
    assert await take(patient, 5, worker="another", empty=True) == ["b"]
    assert await take(patient, 5, worker="third", empty=True) == ["d"]


async def test_an_innocent_beside_poison_ends_well_and_poison_fails_after_three_workers_of_its_own(
    patient: Queue,
) -> None:
    await lost_together(patient, "innocent", "poison")
    for _ in range(3):
        for job_id in await take(patient, worker="w", empty=True):
            if job_id == "innocent":
                attempt = (await stored_job(patient, job_id)).attempt
                assert await patient.finish(job_id, attempt, 1, state="succeeded", event="completed", data={}) == "ok"
            await lose_leases(patient)
    assert await take(patient, empty=True) == ["poison"]
    await lose_leases(patient)
    claims = await patient.claim("m", "w", budget=0, limit=1, alone=True, empty=True)
    assert claims == []
    assert [(job.id, job.state, job.spec) for job in claims.ended] == [("poison", "failed", "poison")]
    poison = await stored_job(patient, "poison")
    assert (poison.state, poison.attempt, poison.error and poison.error["code"]) == ("failed", 4, "worker_lost")
    assert (await events(patient, "poison"))[-1] == ("4-0", "failed")
    entries: Any = await patient.redis.xrevrange(f"{CONFIG.prefix}events:poison", count=1)
    assert b'"code":"worker_lost"' in entries[0][1][b"data"]
    assert (await stored_job(patient, "innocent")).state == "succeeded"
    assert await unfinished(patient) == {}


async def test_what_ended_is_told_again_when_the_reply_was_lost(patient: Queue) -> None:
    await patient.submit(new("a"))
    for _ in range(4):
        await take(patient, empty=True)
        await lose_leases(patient)
    for _ in range(2):
        claims = await patient.claim("m", "w", budget=0, limit=1, alone=True, empty=True, nonce="n")
        assert [job.id for job in claims.ended] == ["a"]


async def speak(queue: Queue, verb: str, job_id: str, attempt: int) -> object:
    """A worker that comes back says something for the attempt that it lost."""
    match verb:
        case "heartbeat":
            return (await queue.publish([said(job_id, attempt, 0, None)]))[job_id, attempt]
        case "finish":
            return await queue.finish(job_id, attempt, 9, state="succeeded", event="completed", data={})
        case "release":
            return await queue.release(job_id, attempt)
    return await queue.quarantine(job_id, attempt, "engine_failed", "")


@pytest.mark.parametrize("verb", ["heartbeat", "finish", "release"])
async def test_a_worker_that_returns_undoes_the_blame(patient: Queue, verb: str) -> None:
    await lost_together(patient, "a")
    await patient.submit(new("b"))
    assert await take(patient, 1, budget=0) == []  # which finds that the lease has ended
    assert await waiting(patient) == (["b"], ["a"])
    for _ in range(2):
        assert await speak(patient, verb, "a", 1) in ("lost", "already")
        assert await waiting(patient) == (["a", "b"], [])  # its old place
    assert [name for _, name in await events(patient, "a")] == ["queued", "queued"]


@pytest.mark.parametrize("verb", ["quarantine", "failed"])
async def test_a_worker_that_returns_with_a_failure_does_not_undo_the_blame(patient: Queue, verb: str) -> None:
    """Else a job over which every engine fails, and only after its lease, would be drawn for ever."""
    await patient.submit(new("a"))
    for attempt in range(1, 5):  # the first one is nobody's own
        assert await take(patient, worker=f"w{attempt}", empty=True) == ["a"]
        await lose_leases(patient)
        await take(patient, budget=0)
        if verb == "quarantine":
            await patient.quarantine("a", attempt, "engine_failed", "")
        else:
            await patient.finish("a", attempt, 9, state="failed", event="failed", data={})
        await speak(patient, "heartbeat", "a", attempt)  # nor does what it says later
    job = await stored_job(patient, "a")
    assert (job.state, job.attempt, job.error and job.error["code"]) == ("failed", 4, "worker_lost")


async def test_the_blame_is_undone_while_the_heir_draws(patient: Queue) -> None:
    await lost_together(patient, "a")
    for attempt in range(2, 12):  # more often than a job may lose workers
        assert await take(patient, worker=f"w{attempt}", empty=True) == ["a"]
        await speak(patient, "heartbeat", "a", attempt - 1)
        await lose_leases(patient)
    assert await take(patient, budget=0) == []
    assert await waiting(patient) == ([], ["a"])  # for the last of them is gone
    await speak(patient, "heartbeat", "a", 11)
    assert await waiting(patient) == (["a"], [])
    job = await patient.redis.hgetall(f"{CONFIG.prefix}job:a")
    assert (job[b"lost"], job[b"blames"]) == (b"0", b"0")


async def test_one_of_two_blames_undone_leaves_a_candidate(patient: Queue) -> None:
    await lost_together(patient, "a")
    await take(patient, empty=True)
    await lose_leases(patient)
    await take(patient, budget=0)
    await speak(patient, "heartbeat", "a", 1)
    assert await waiting(patient) == ([], ["a"])
    await speak(patient, "heartbeat", "a", 2)
    assert await waiting(patient) == (["a"], [])


async def test_a_job_that_an_engine_failed_over_is_a_candidate_and_its_worker_cannot_undo_that(patient: Queue) -> None:
    await patient.submit(new("a"))
    await take(patient)
    assert await patient.quarantine("a", 1, "out_of_memory", "no room") == "ok"
    assert await patient.quarantine("a", 1, "out_of_memory", "no room") == "already"
    assert await speak(patient, "heartbeat", "a", 1) == "lost"  # one that was on its way
    assert await waiting(patient) == ([], ["a"])
    for attempt in (2, 3, 4):
        assert await take(patient, empty=True) == ["a"]
        answer = await patient.quarantine("a", attempt, "out_of_memory", "no room")
        assert answer == ("failed" if attempt == 4 else "ok")
    job = await stored_job(patient, "a")
    assert (job.state, job.error) == ("failed", {"code": "out_of_memory", "message": "no room"})
    assert (await events(patient, "a"))[-1] == ("4-0", "failed")


async def test_a_candidate_that_nobody_wants_any_more_is_canceled(patient: Queue) -> None:
    for job_id in ("a", "b"):
        await patient.submit(new(job_id))
    await take(patient, 2)
    assert await patient.cancel("a") == "requested"
    assert await patient.quarantine("a", 1, "engine_failed", "") == "canceled"
    assert await patient.quarantine("b", 1, "engine_failed", "") == "ok"
    assert await patient.cancel("b") == "canceled"
    assert await take(patient, empty=True) == []
    assert await unfinished(patient) == {}


async def test_a_released_candidate_keeps_its_place_and_is_drawn_alone_again(patient: Queue) -> None:
    await lost_together(patient, "a", "b")
    assert await take(patient, empty=True) == ["a"]
    assert await patient.release("a", 2) == "ok"
    assert await waiting(patient) == ([], ["a", "b"])
    (claim,) = await patient.claim("m", "w", budget=0, limit=1, alone=True, empty=True)
    assert (claim.id, claim.alone) == ("a", True)


async def test_for_a_candidate_that_waits_too_long_one_busy_worker_becomes_empty(redis: Redis) -> None:
    hasty = Queue(redis, QueueConfig(lease_seconds=100, quarantine_seconds=0))
    await lost_together(hasty, "a")
    for job_id in ("b", "c", "d"):
        await hasty.submit(new(job_id))

    async def claim(worker: str, *, empty: bool = False) -> tuple[list[str], bool]:
        claims = await hasty.claim("m", worker, budget=1000, limit=1, alone=False, empty=empty)
        return [claim.id for claim in claims], claims.become_empty

    assert await claim("first") == ([], True)
    assert await claim("second") == (["b"], False)  # only one of them
    assert await claim("first") == ([], True)
    await redis.delete(CONFIG.line_key("emptying", "m"))  # the first is gone: some time later…
    assert await claim("second") == ([], True)
    assert await claim("second", empty=True) == (["a"], False)
    assert await claim("first") == (["c"], False)


async def test_candidates_have_time_to_meet_an_idle_worker(patient: Queue) -> None:
    await lost_together(patient, "a")
    await patient.submit(new("b"))
    claims = await patient.claim("m", "busy", budget=1000, limit=1, alone=False)
    assert ([claim.id for claim in claims], claims.become_empty) == (["b"], False)


async def test_candidates_count_among_those_that_wait(redis: Redis) -> None:
    queue = Queue(redis, QueueConfig(lease_seconds=100, max_queued=2))
    await lost_together(queue, "a", "b")
    await take(queue, budget=0)
    with pytest.raises(QueueFull):
        await queue.submit(new("c"))

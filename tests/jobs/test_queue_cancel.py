"""Cancelling: a queued job ends at once, a running one is told through its worker, a finished one stays as it is."""

from __future__ import annotations

import asyncio

import pytest

from service.jobs import Queue
from tests.support.queue import events, lose_leases, new, said, stored_job, take

pytestmark = pytest.mark.anyio


async def test_cancel_of_a_queued_job_ends_it_at_once(queue: Queue) -> None:
    await queue.submit(new("a"))
    answers = await asyncio.gather(*(queue.cancel("a") for _ in range(3)))
    assert sorted(answers) == ["canceled", "finished", "finished"]  # one of them counts it
    assert await queue.cancel("nobody") == "unknown"
    assert await take(queue) == []
    assert await events(queue, "a") == [("0-1", "queued"), ("0-2", "canceled")]
    assert (await stored_job(queue, "a")).state == "canceled"


async def test_cancel_of_a_running_job_reaches_its_worker(queue: Queue) -> None:
    await queue.submit(new("a"))
    await take(queue)
    assert await queue.cancel("a") == "requested"
    assert await queue.publish([said("a", 1, 1)]) == {("a", 1): "cancel"}
    assert await queue.publish([said("a", 1, 1)]) == {("a", 1): "cancel"}  # the answer was lost
    assert await queue.finish("a", 1, 2, state="canceled", event="canceled", data={}) == "ok"
    assert await queue.cancel("a") == "finished"


async def test_cancel_of_a_job_whose_worker_is_gone(queue: Queue) -> None:
    for job_id in ("a", "b", "c"):
        await queue.submit(new(job_id))
    await take(queue, 3)
    assert await queue.cancel("a") == "requested"
    assert await queue.cancel("b") == "requested"
    assert await queue.release("b", 1) == "ok"  # a drain does not hand on what nobody wants
    await lose_leases(queue)
    assert await queue.cancel("c") == "canceled"  # there may be no other worker to hear the flag
    claims = await queue.claim("m", "w", budget=100, limit=5, alone=True, empty=True)
    assert claims == []
    assert [(job.id, job.state, job.spec) for job in claims.ended] == [("a", "canceled", "a")]
    assert {(await stored_job(queue, job_id)).state for job_id in ("a", "b", "c")} == {"canceled"}
    assert [name for _, name in await events(queue, "a")] == ["queued", "canceled"]


async def test_finished_jobs_cannot_be_canceled(queue: Queue) -> None:
    await queue.submit(new("a"))
    await take(queue)
    error = {"code": "x", "message": "y"}
    await queue.finish("a", 1, 1, state="failed", event="failed", data={"error": error}, error=error)
    assert await queue.cancel("a") == "finished"
    assert (await stored_job(queue, "a")).error == error

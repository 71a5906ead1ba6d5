"""A webhook is due as soon as its job ends, however it ends, until it is delivered or given up."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from service.jobs import Queue, QueueConfig
from service.jobs.webhooks.queue import WebhookCall, WebhookQueue
from tests.support.queue import CONFIG, lose_leases, new, stored_job, take

pytestmark = pytest.mark.anyio
URL = "https://hooks.test/x"


@pytest.fixture
def webhooks(redis: Redis) -> WebhookQueue:
    return WebhookQueue(redis, CONFIG)


async def due(webhooks: WebhookQueue, *, hold: float = 100.0, most: int = 9, **under_way: int) -> list[WebhookCall]:
    calls, _ = await webhooks.claim(9, hold_seconds=hold, most=most, under_way=under_way)
    return calls


async def ended(queue: Queue, *ids: str, client: str = "x", **more: Any) -> None:
    for job_id in ids:
        await queue.submit(new(job_id, client, webhook=URL, **more))
        await queue.cancel(job_id)


@pytest.mark.parametrize("end", ["finished", "canceled", "lost", "late", "expired"])
async def test_a_webhook_is_due_once_its_job_has_ended(queue: Queue, webhooks: WebhookQueue, end: str) -> None:
    await queue.submit(new("a", "x", webhook=URL, start_seconds=1000.0 if end == "late" else None))
    await queue.submit(new("none", "x"))
    assert await due(webhooks) == []
    if end in ("finished", "lost"):
        await take(queue)
    if end == "finished":
        await queue.finish("a", 1, 1, state="failed", event="failed", data={})
    elif end == "canceled":
        await queue.cancel("a")
    elif end == "lost":
        await queue.cancel("a")
        await lose_leases(queue)
        await take(queue, 0)
    elif end == "late":
        await queue.redis.hset(f"{CONFIG.prefix}job:a", "start_by", 1)
        await queue.redis.zadd(f"{CONFIG.prefix}unstarted", {"a": 1})
        await queue.expire_unstarted()
    else:
        await queue.redis.zadd(f"{CONFIG.prefix}unended", {"a": 1})
        await queue.expire()
    await queue.cancel("none")
    [call] = await due(webhooks)
    assert call == WebhookCall(job_id="a", client="x", url=URL, tries=1)
    assert await due(webhooks) == []  # another replica makes the call
    assert await webhooks.settle(call, "delivered") == "delivered"
    shown = (await stored_job(queue, "a")).webhook
    assert shown is not None
    assert (shown.state, shown.tries, shown.error) == ("delivered", 1, "")
    assert await queue.redis.keys(f"{CONFIG.prefix}webhooks*") == []


async def test_a_call_that_nobody_settles_is_made_again(queue: Queue, webhooks: WebhookQueue) -> None:
    await ended(queue, "a")
    [first] = await due(webhooks, hold=0)
    [again] = await due(webhooks)
    assert (again.job_id, again.tries) == ("a", 2)
    assert await webhooks.settle(first, "delivered") == "delivered"
    for state in ("pending", "failed", "delivered"):  # the other one comes too late to say anything
        assert await webhooks.settle(again, state) == "settled"
    assert await due(webhooks) == []


async def test_a_call_that_failed_is_repeated_unless_the_job_expires_first(
    queue: Queue, webhooks: WebhookQueue
) -> None:
    await ended(queue, "a", "b")
    a, b = await due(webhooks)
    assert await webhooks.settle(a, "pending", wait_seconds=0, error="no answer") == "pending"
    assert (
        await webhooks.settle(b, "pending", wait_seconds=CONFIG.result_ttl_seconds + 1, error="no answer") == "failed"
    )
    [again] = await due(webhooks)
    assert (again.job_id, again.tries) == (a.job_id, 2)
    states = [(await stored_job(queue, call.job_id)).webhook for call in (a, b)]
    assert [(w.state, w.error) for w in states if w] == [("pending", "no answer"), ("failed", "no answer")]


async def test_a_webhook_whose_job_has_expired_is_told_of(redis: Redis, queue: Queue, webhooks: WebhookQueue) -> None:
    await ended(queue, "a")
    await redis.delete(f"{CONFIG.prefix}job:a")
    assert await webhooks.claim(9, hold_seconds=1, most=9, under_way={}) == ([], 1)
    assert await webhooks.claim(9, hold_seconds=1, most=9, under_way={}) == ([], 0)
    hasty = Queue(redis, QueueConfig(result_ttl_seconds=0.001))
    await ended(hasty, "b")
    assert await redis.pttl(f"{CONFIG.prefix}job:b") < 2


async def test_a_client_whose_receiver_is_slow_takes_only_its_share(queue: Queue, webhooks: WebhookQueue) -> None:
    await ended(queue, *(f"x{index}" for index in range(20)))
    await ended(queue, "y", client="y")
    calls = await due(webhooks, most=4)
    assert [call.client for call in calls] == ["x"] * 4 + ["y"]
    assert await due(webhooks, most=4, x=4) == []
    assert [call.client for call in await due(webhooks, most=4, x=3)] == ["x"]
    await ended(queue, "y2", client="y")
    assert [call.job_id for call in await due(webhooks, most=4, x=4)] == ["y2"]

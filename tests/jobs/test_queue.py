"""The queue's verbs against a real server: what each one promises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from service.jobs import Queue, QueueConfig, QueueFull, cancelled, check_server, connect
from tests.support.queue import CONFIG, events, lose_leases, new, said, stored_job, stored_number, take

pytestmark = pytest.mark.anyio


async def test_submit_is_idempotent_and_tells_the_position(queue: Queue) -> None:
    first = await queue.submit(new("a"))
    assert (first.created, first.state, first.position) == (True, "queued", 0)
    assert (await queue.submit(new("b"))).position == 1
    repeats = await asyncio.gather(*(queue.submit(new("a")) for _ in range(5)))
    assert {(again.created, again.state, again.position) for again in repeats} == {(False, "queued", 0)}
    assert await queue.depth("m") == 2
    assert await events(queue, "a") == [("0-1", "queued")]
    await take(queue)
    again = await queue.submit(new("a"))
    assert (again.created, again.state, again.position) == (False, "running", None)


async def test_ready_set_is_bounded(redis: Redis) -> None:
    queue = Queue(redis, QueueConfig(max_queued=2))
    await queue.submit(new("a"))
    await queue.submit(new("b"))
    with pytest.raises(QueueFull):
        await queue.submit(new("c"))
    assert await queue.job("c") is None
    assert not (await queue.submit(new("a"))).created  # a repeat needs no room
    assert (await queue.submit(new("d", model="other"))).created
    await take(queue)
    assert (await queue.submit(new("c"))).created


async def test_claim_repeated_after_a_lost_reply_gives_the_same_grant(queue: Queue) -> None:
    await queue.submit(new("a"))
    await queue.submit(new("b"))

    async def repeated(budget: int = 10) -> list[tuple[str, int]]:
        claims = await queue.claim("m", "w", budget=budget, limit=4, alone=False, nonce="nonce-1")
        return [(claim.id, claim.attempt) for claim in claims]

    assert await repeated() == [("a", 1)]
    assert await repeated(30) == [("a", 1)]
    assert await queue.depth("m") == 1
    await queue.finish("a", 1, 1, state="succeeded", event="completed", data={})
    assert await repeated() == []  # what is no longer held is not granted again


async def test_a_worker_may_repeat_the_claims_of_several_models_side_by_side(queue: Queue) -> None:
    models = ("m", "other")
    for model in models:
        await queue.submit(new(f"of-{model}", model=model))
    for _ in range(2):
        for model in models:
            claims = await queue.claim(model, "w", budget=10, limit=4, alone=False, nonce=f"nonce-{model}")
            assert [(claim.id, claim.attempt) for claim in claims] == [(f"of-{model}", 1)]


async def test_publish_keeps_order_refuses_repeats_and_renews(queue: Queue) -> None:
    await queue.submit(new("a"))
    await queue.submit(new("b"))
    await take(queue, 2)
    batch = [said("a", 1, 1, "started"), said("b", 1, 1, "started"), said("a", 1, 2)]
    assert await queue.publish(batch) == {("a", 1): "ok", ("b", 1): "ok"}
    assert await queue.publish(batch) == {("a", 1): "dup", ("b", 1): "dup"}
    assert await queue.publish([said("a", 1, 2), said("a", 1, 3)]) == {("a", 1): "ok"}
    assert [event_id for event_id, _ in await events(queue, "a")] == ["0-1", "1-1", "1-2", "1-3"]
    await lose_leases(queue)
    assert await queue.publish([said("a", 1, 0, None)]) == {("a", 1): "ok"}
    assert await take(queue, 5, worker="other", empty=True) == ["b"]  # nobody renewed it
    assert len(await events(queue, "a")) == 4  # a heartbeat is no event


async def test_a_lost_lease_comes_back_and_the_fence_refuses_the_zombie(queue: Queue) -> None:
    await queue.submit(new("a"))
    await queue.submit(new("b"))
    await take(queue, worker="zombie")
    await queue.publish([said("a", 1, 1, "started")])
    await lose_leases(queue)
    # Expired but not yet given to anybody: the worker that comes back in time keeps its job.
    assert await queue.publish([said("a", 1, 2)]) == {("a", 1): "ok"}
    await lose_leases(queue)
    for _ in range(2):  # the first answer may be lost: the takeover is told again
        claims = await queue.claim("m", "heir", budget=10, limit=5, alone=False, empty=True, nonce="nonce-1")
        assert claims.taken_over == 1
    (again,) = claims
    assert (again.id, again.attempt, again.alone) == ("a", 2, True)
    assert await queue.publish([said("a", 1, 3), said("a", 1, 0, None)]) == {("a", 1): "lost"}
    assert await queue.finish("a", 1, 4, state="succeeded", event="completed", data={}) == "lost"
    assert await queue.release("a", 1) == "lost"
    assert await queue.publish([said("a", 2, 1, "started")]) == {("a", 2): "ok"}
    assert await events(queue, "a") == [
        ("0-1", "queued"),
        ("1-1", "started"),
        ("1-2", "tokens"),
        ("1-3", "queued"),
        ("2-1", "started"),
    ]


async def test_a_batch_answers_each_attempt_for_itself(queue: Queue) -> None:
    await queue.submit(new("a"))
    await take(queue)
    await queue.release("a", 1)
    await take(queue)
    for batch in ([said("a", 1, 1), said("a", 2, 1)], [said("a", 2, 2), said("a", 1, 2)]):
        assert await queue.publish(batch) == {("a", 1): "lost", ("a", 2): "ok"}
    assert [event_id for event_id, _ in await events(queue, "a")] == ["0-1", "1-0", "2-1", "2-2"]


async def test_a_stream_holds_one_preview_a_picture_and_none_when_it_has_ended(queue: Queue) -> None:
    await queue.submit(new("a"))
    await take(queue)
    shown = "x" * 11_000
    for step in range(1, 41):
        batch = [said("a", 1, 3 * step, "tokens")]
        batch += [said("a", 1, 3 * step + 1 + i, "preview", image_index=i, b64_json=shown) for i in range(2)]
        assert await queue.publish(batch) == {("a", 1): "ok"}
        assert set((await queue.publish(batch)).values()) == {"dup"}  # the answer was lost
    previews = [event_id for event_id, name in await events(queue, "a") if name == "preview"]
    assert previews == ["1-121", "1-122"]
    memory = await queue.redis.memory_usage(f"{CONFIG.prefix}events:a", samples=0)
    assert memory is not None
    assert memory < 100_000
    await queue.release("a", 1)
    await take(queue)
    await queue.publish([said("a", 2, 1, "preview", image_index=0, b64_json=shown)])
    previews = [event_id for event_id, name in await events(queue, "a") if name == "preview"]
    assert previews == ["1-122", "2-1"]
    await queue.finish("a", 2, 2, state="succeeded", event="completed", data={})
    told = await events(queue, "a")
    assert told[-1] == ("2-2", "completed")
    assert [name for _, name in told].count("tokens") == 40
    assert "preview" not in {name for _, name in told}
    assert not await queue.redis.exists(f"{CONFIG.prefix}previews:a")


async def test_finish_ends_once(queue: Queue) -> None:
    await queue.submit(new("a"))
    await take(queue)
    await queue.publish([said("a", 1, 1, "started")])
    end: dict[str, Any] = {
        "state": "succeeded",
        "event": "completed",
        "data": {"images": []},
        "result": {"images": [1]},
    }
    assert await queue.finish("a", 1, 2, **end) == "ok"
    assert await queue.finish("a", 1, 2, **end) == "already"
    assert await queue.publish([said("a", 1, 3)]) == {("a", 1): "lost"}
    assert [name for _, name in await events(queue, "a")] == ["queued", "started", "completed"]
    job = await stored_job(queue, "a")
    assert (job.state, job.result) == ("succeeded", {"images": [1]})
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.expires_at is not None
    assert job.created_at <= job.started_at <= job.finished_at
    assert job.expires_at - job.finished_at == pytest.approx(CONFIG.result_ttl_seconds)
    assert (await queue.stats())["m"].running == 0
    for key in (f"{CONFIG.prefix}job:a", f"{CONFIG.prefix}events:a"):
        assert 0 < await queue.redis.ttl(key) <= CONFIG.result_ttl_seconds


async def test_an_end_that_counts_wrongly_still_comes_last(queue: Queue) -> None:
    await queue.submit(new("a"))
    await take(queue)
    await queue.publish([said("a", 1, 7)])
    assert await queue.finish("a", 1, 3, state="succeeded", event="completed", data={}) == "ok"
    assert await events(queue, "a") == [("0-1", "queued"), ("1-7", "tokens"), ("1-8", "completed")]


async def test_release_gives_back_to_the_old_place_without_blame(queue: Queue) -> None:
    for job_id in ("a", "b"):
        await queue.submit(new(job_id))
    for attempt in range(1, 6):  # more often than a job may lose workers
        assert await take(queue) == ["a"]
        assert await queue.release("a", attempt) == "ok"
        assert await queue.release("a", attempt) == "already"
    job = await stored_job(queue, "a")
    assert (job.state, job.position) == ("queued", 0)


async def test_the_bell_wakes_an_idle_worker(queue: Queue) -> None:
    waiting = asyncio.create_task(queue.wait(["other", "m"], 60.0))
    await asyncio.sleep(0.1)
    await queue.submit(new("a"))
    assert await asyncio.wait_for(waiting, 20)
    assert not await queue.wait(["m"], 0.05)


@pytest.mark.parametrize("first", ["claim", "publish"])
async def test_after_an_outage_those_who_come_back_keep_their_jobs(queue: Queue, redis: Redis, first: str) -> None:
    """Whatever the reason: a restart, a server that stood still, a clock that jumped."""
    for job_id in ("a", "b"):
        await queue.submit(new(job_id))
    await take(queue, 2)
    await lose_leases(queue)
    heard_at = await stored_number(redis, "heard_at")
    await redis.set(f"{CONFIG.prefix}heard_at", heard_at - queue.config.lease_ms)
    if first == "claim":
        assert await take(queue, worker="other", empty=True) == []
    assert await queue.publish([said("a", 1, 1)]) == {("a", 1): "ok"}
    assert await take(queue, worker="other", empty=True) == []
    # Who is not back by then is lost all the same.
    assert await stored_number(redis, "reap_from") > heard_at + queue.config.lease_ms * 0.9
    await redis.set(f"{CONFIG.prefix}reap_from", heard_at)
    assert await take(queue, worker="other", empty=True) == ["b"]


async def test_busy_workers_that_only_publish_are_heard_and_the_dead_among_them_reaped(
    queue: Queue, redis: Redis
) -> None:
    async def passes(leases: float) -> None:
        heard_at = await stored_number(redis, "heard_at")
        await redis.set(f"{CONFIG.prefix}heard_at", round(heard_at - leases * CONFIG.lease_ms))

    for job_id in ("a", "b"):
        await queue.submit(new(job_id))
    await take(queue, 2)
    await lose_leases(queue)
    for sequence in range(1, 4):
        await passes(0.4)
        assert await queue.publish([said("a", 1, sequence)]) == {("a", 1): "ok"}
    await passes(0.4)
    assert await take(queue, worker="other", empty=True) == ["b"]  # it was no outage


async def test_a_clock_that_was_ahead_and_came_back_leaves_nobody_unreaped(queue: Queue, redis: Redis) -> None:
    await queue.submit(new("a"))
    await take(queue)
    day = 24 * 3600 * 1000
    ahead = await stored_number(redis, "heard_at") + day
    await redis.set(f"{CONFIG.prefix}heard_at", ahead)
    await redis.set(f"{CONFIG.prefix}reap_from", ahead)
    await redis.zadd(CONFIG.line_key("leases", "m"), {"a": ahead})
    assert await take(queue, empty=True) == []  # one lease more, and no day
    lease_end = await redis.zscore(CONFIG.line_key("leases", "m"), "a")
    assert lease_end is not None
    assert lease_end <= ahead - day + 2 * CONFIG.lease_ms
    await lose_leases(queue)
    assert await take(queue, empty=True) == ["a"]


async def test_the_server_is_checked(redis: Redis) -> None:
    kept: Any = await redis.config_get("appendonly")
    await redis.config_set("appendonly", "no")
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        report = await check_server(redis)
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")
        await redis.config_set("appendonly", kept["appendonly"])
    assert report.product in ("valkey", "redis")
    assert any("appendonly" in warning for warning in report.warnings)
    assert any("maxmemory-policy is allkeys-lru" in warning for warning in report.warnings)


async def test_a_client_retries_until_the_server_is_back(redis_url: str) -> None:
    from redis.asyncio.retry import Retry

    for blocking in (False, True):
        client = connect(redis_url, blocking=blocking)
        connection = await client.connection_pool.get_connection()
        assert isinstance(connection.retry, Retry)  # the sync class would never retry
        assert connection.retry.get_retries() > 0
        assert (connection.socket_timeout is None) == blocking
        await client.connection_pool.release(connection)
        await client.aclose()


async def test_whoever_talks_to_redis_can_be_cancelled_at_any_moment(queue: Queue) -> None:
    async def talker() -> None:
        while True:
            await queue.wait(["m"], 2.0)

    for steps in range(12):  # redis-py swallows a cancellation at some of these moments
        task = asyncio.ensure_future(talker())
        for _ in range(steps):
            await asyncio.sleep(0)
        await asyncio.wait_for(cancelled(task), 20)
        assert task.cancelled()

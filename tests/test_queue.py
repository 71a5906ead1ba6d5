"""The queue's verbs against a real server: what each one promises."""

from __future__ import annotations

import asyncio

import pytest
from queue_harness import CONFIG, events, lose_lease, new, said, take
from redis.asyncio import Redis

from service.queue import (
    Queue,
    QueueConfig,
    QueueFull,
    cancelled,
    check_server,
    connect,
)

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


async def test_clients_share_by_weight(queue: Queue) -> None:
    for i in range(30):
        await queue.submit(new(f"a{i}", "a"))
    await take(queue)
    for i in range(12):
        await queue.submit(new(f"b{i}", "b", weight=1))
        await queue.submit(new(f"c{i}", "c", weight=4))
    order = "".join([job_id[0] for job_id in await take(queue, 18)])
    # a flooded first and gets no more than its share: b and a alternate, c has four times theirs.
    assert order.count("c") == 12
    assert 2 <= order.count("a") <= 4
    assert 2 <= order.count("b") <= 4
    rest = "".join([job_id[0] for job_id in await take(queue, 60)])
    assert sorted(order + rest + "a") == sorted("a" * 30 + "b" * 12 + "c" * 12)  # nobody starves


async def test_a_dearer_job_uses_more_of_the_share(queue: Queue) -> None:
    for i in range(8):
        await queue.submit(new(f"a{i}", "a", cost=40))
        await queue.submit(new(f"b{i}", "b", cost=10))
    order = [job_id[0] for job_id in await take(queue, 10)]
    assert order.count("b") == 8


async def test_claim_stays_within_budget_and_never_passes_the_head(queue: Queue) -> None:
    for job_id, cost in (("a", 10), ("b", 50), ("c", 10)):
        await queue.submit(new(job_id, job_id, cost=cost))
    assert await take(queue, 8, budget=30) == ["a"]  # c would fit, but b is before it
    assert await take(queue, 8, budget=49) == []
    alone = await queue.claim("m", "w", budget=5, limit=8, alone=True)
    assert [claim.id for claim in alone] == ["b"]
    assert (alone[0].attempt, alone[0].cost, alone[0].payload) == (1, 50, {"n": "b"})
    assert alone[0].queued_seconds >= 0


async def test_claim_repeated_after_a_lost_reply_gives_the_same_grant(queue: Queue) -> None:
    await queue.submit(new("a"))
    await queue.submit(new("b"))
    config = queue.config
    call = ([config.prefix], ["m", "w", "nonce-1", 10, 4, 0, config.lease_ms, 3, config.ttl_ms])
    first = await queue._claim(*call)
    assert [(row[0], row[1]) for row in first] == [(b"a", b"1")]
    again = await queue._claim(*call)
    assert [(row[0], row[1]) for row in again] == [(b"a", b"1")]
    assert await queue.depth("m") == 1
    await queue.finish("a", 1, 1, state="succeeded", event="completed", data={})
    assert await queue._claim(*call) == []  # what is no longer held is not granted again


async def test_a_worker_may_repeat_the_claims_of_several_models_side_by_side(queue: Queue) -> None:
    config, models = queue.config, ("m", "other")
    for model in models:
        await queue.submit(new(f"of-{model}", model=model))
    calls = {
        model: ([config.prefix], [model, "w", f"nonce-{model}", 10, 4, 0, config.lease_ms, 3, config.ttl_ms])
        for model in models
    }
    first = {model: await queue._claim(*call) for model, call in calls.items()}
    assert {model: [row[0] for row in rows] for model, rows in first.items()} == {
        "m": [b"of-m"],
        "other": [b"of-other"],
    }
    for model, call in calls.items():
        again = await queue._claim(*call)
        assert [row[:2] for row in again] == [row[:2] for row in first[model]]


async def test_publish_keeps_order_refuses_repeats_and_renews(queue: Queue) -> None:
    await queue.submit(new("a"))
    await queue.submit(new("b"))
    await take(queue, 2)
    batch = [said("a", 1, 1, "started"), said("b", 1, 1, "started"), said("a", 1, 2)]
    assert await queue.publish(batch) == {"a": "ok", "b": "ok"}
    assert await queue.publish(batch) == {"a": "dup", "b": "dup"}
    assert await queue.publish([said("a", 1, 2), said("a", 1, 3)]) == {"a": "ok"}
    assert [event_id for event_id, _ in await events(queue, "a")] == ["0-1", "1-1", "1-2", "1-3"]
    for _ in range(6):  # well beyond one lease
        await asyncio.sleep(CONFIG.lease_seconds / 3)
        assert await queue.publish([said("a", 1, 0, None)]) == {"a": "ok"}
        assert "a" not in await take(queue, 5, worker="other")
    assert (await queue.job("b")).attempt > 1  # nobody renewed it: the other worker has it now
    assert len(await events(queue, "a")) == 4  # a heartbeat is no event


async def test_a_lost_lease_goes_back_to_its_place_and_the_fence_refuses_the_zombie(queue: Queue) -> None:
    await queue.submit(new("a"))
    await queue.submit(new("b"))
    await take(queue, worker="zombie")
    await queue.publish([said("a", 1, 1, "started")])
    await lose_lease()
    # Expired but not yet given to anybody: the worker that comes back in time keeps its job.
    assert await queue.publish([said("a", 1, 2)]) == {"a": "ok"}
    await lose_lease()
    (again,) = await queue.claim("m", "heir", budget=10, limit=5, alone=False)
    assert (again.id, again.attempt) == ("a", 2)
    assert await queue.publish([said("a", 1, 3), said("a", 1, 0, None)]) == {"a": "lost"}
    assert await queue.finish("a", 1, 4, state="succeeded", event="completed", data={}) == "lost"
    assert await queue.release("a", 1) == "lost"
    assert await queue.publish([said("a", 2, 1, "started")]) == {"a": "ok"}
    assert await events(queue, "a") == [
        ("0-1", "queued"),
        ("1-1", "started"),
        ("1-2", "tokens"),
        ("1-3", "queued"),
        ("2-1", "started"),
    ]


async def test_a_job_that_loses_three_workers_fails(queue: Queue) -> None:
    await queue.submit(new("a"))
    for attempt in (1, 2, 3):
        assert await take(queue, worker=f"w{attempt}") == ["a"]
        await lose_lease()
    assert await take(queue) == []
    job = await queue.job("a")
    assert (job.state, job.attempt, job.error["code"]) == ("failed", 3, "worker_lost")
    assert (await events(queue, "a"))[-1] == ("3-0", "failed")
    entries = await queue.redis.xrevrange(f"{CONFIG.prefix}events:a", count=1)
    assert b'"code":"worker_lost"' in entries[0][1][b"data"]
    assert (await queue.stats())["m"].running == 0


async def test_finish_ends_once(queue: Queue) -> None:
    await queue.submit(new("a"))
    await take(queue)
    await queue.publish([said("a", 1, 1, "started")])
    end = {"state": "succeeded", "event": "completed", "data": {"images": []}, "result": {"images": [1]}}
    assert await queue.finish("a", 1, 2, **end) == "ok"
    assert await queue.finish("a", 1, 2, **end) == "already"
    assert await queue.publish([said("a", 1, 3)]) == {"a": "lost"}
    assert [name for _, name in await events(queue, "a")] == ["queued", "started", "completed"]
    job = await queue.job("a")
    assert (job.state, job.result) == ("succeeded", {"images": [1]})
    assert job.created_at <= job.started_at <= job.finished_at
    assert job.expires_at - job.finished_at == pytest.approx(CONFIG.result_ttl_seconds)
    assert (await queue.stats())["m"].running == 0
    for key in (f"{CONFIG.prefix}job:a", f"{CONFIG.prefix}events:a"):
        assert 0 < await queue.redis.ttl(key) <= CONFIG.result_ttl_seconds


async def test_release_gives_back_to_the_old_place_without_blame(queue: Queue) -> None:
    for job_id in ("a", "b"):
        await queue.submit(new(job_id))
    for attempt in range(1, 6):  # more often than a job may lose workers
        assert await take(queue) == ["a"]
        assert await queue.release("a", attempt) == "ok"
        assert await queue.release("a", attempt) == "already"
    job = await queue.job("a")
    assert (job.state, job.position) == ("queued", 0)


async def test_cancel_of_a_queued_job_ends_it_at_once(queue: Queue) -> None:
    await queue.submit(new("a"))
    assert await queue.cancel("a") == "canceled"
    assert await queue.cancel("a") == "canceled"
    assert await queue.cancel("nobody") == "unknown"
    assert await take(queue) == []
    assert await events(queue, "a") == [("0-1", "queued"), ("0-2", "canceled")]
    assert (await queue.job("a")).state == "canceled"


async def test_a_canceled_job_does_not_count_against_its_client(queue: Queue) -> None:
    for i in range(20):
        await queue.submit(new(f"a{i}", "a"))
    for i in reversed(range(20)):
        await queue.cancel(f"a{i}")
    await queue.submit(new("b0", "b"))
    await queue.submit(new("b1", "b"))
    await queue.submit(new("a", "a"))
    assert await take(queue, 2) == ["a", "b0"]


async def test_a_cancel_lets_no_later_job_overtake(queue: Queue) -> None:
    for job_id in ("c", "b"):
        await queue.submit(new(job_id, "local"))
    await queue.cancel("c")
    await queue.submit(new("a", "local"))  # its name would come first, were the places the same
    assert await take(queue, 5) == ["b", "a"]


async def test_cancel_of_a_running_job_reaches_its_worker(queue: Queue) -> None:
    await queue.submit(new("a"))
    await take(queue)
    assert await queue.cancel("a") == "requested"
    assert await queue.publish([said("a", 1, 1)]) == {"a": "cancel"}
    assert await queue.publish([said("a", 1, 1)]) == {"a": "cancel"}  # the answer was lost
    assert await queue.finish("a", 1, 2, state="canceled", event="canceled", data={}) == "ok"
    assert await queue.cancel("a") == "canceled"


async def test_cancel_of_a_job_whose_worker_is_gone(queue: Queue) -> None:
    for job_id in ("a", "b", "c"):
        await queue.submit(new(job_id))
    await take(queue, 3)
    assert await queue.cancel("a") == "requested"
    assert await queue.cancel("b") == "requested"
    assert await queue.release("b", 1) == "ok"  # a drain does not hand on what nobody wants
    await lose_lease()
    assert await queue.cancel("c") == "canceled"  # there may be no other worker to hear the flag
    assert await take(queue, 5) == []
    assert {(await queue.job(job_id)).state for job_id in ("a", "b", "c")} == {"canceled"}
    assert [name for _, name in await events(queue, "a")] == ["queued", "canceled"]


async def test_finished_jobs_cannot_be_canceled(queue: Queue) -> None:
    await queue.submit(new("a"))
    await take(queue)
    error = {"code": "x", "message": "y"}
    await queue.finish("a", 1, 1, state="failed", event="failed", data={"error": error}, error=error)
    assert await queue.cancel("a") == "finished"
    assert (await queue.job("a")).error == error


async def test_models_do_not_block_each_other(queue: Queue) -> None:
    for i in range(5):
        await queue.submit(new(f"a{i}", model="big"))
    await queue.submit(new("b", model="small"))
    (claim,) = await queue.claim("small", "w", budget=10, limit=4, alone=False)
    assert claim.id == "b"
    stats = await queue.stats()
    assert (stats["big"].queued, stats["small"].queued, stats["small"].running) == (5, 0, 1)


async def test_the_bell_wakes_an_idle_worker(queue: Queue) -> None:
    waiting = asyncio.create_task(queue.wait(["other", "m"], 3.0))
    await asyncio.sleep(0.1)
    await queue.submit(new("a"))
    assert await asyncio.wait_for(waiting, 1.0)
    assert not await queue.wait(["m"], 0.05)


async def test_leases_are_not_taken_for_lost_right_after_a_restart_of_the_server(redis: Redis) -> None:
    uptime = (await redis.info("server"))["uptime_in_seconds"]
    queue = Queue(redis, QueueConfig(lease_seconds=uptime + 60))
    await queue.submit(new("a"))
    await take(queue)
    await redis.zadd(f"{CONFIG.prefix}leases:m", {"a": 1})  # expired long ago, as after an outage
    assert await take(queue, worker="other") == []
    assert await queue.publish([said("a", 1, 1)]) == {"a": "ok"}


async def test_idle_clients_leave_no_trace(queue: Queue, redis: Redis) -> None:
    for i in range(400):
        await queue.submit(new(f"j{i}", f"client{i}", cost=1))
        assert await queue.cancel(f"j{i}") == "canceled"
    assert await redis.hlen(f"{CONFIG.prefix}finish_tags:m") < 300


async def test_the_server_is_checked(redis: Redis) -> None:
    kept = await redis.config_get("appendonly")
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
        await asyncio.wait_for(cancelled(task), 1.0)
        assert task.cancelled()

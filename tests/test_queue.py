"""The queue's verbs against a real server: what each one promises."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from service.queue import (
    BlobConfig,
    Blobs,
    BlobStoreFull,
    Cards,
    NewJob,
    Publication,
    Queue,
    QueueConfig,
    QueueFull,
    cancelled,
    check_server,
    connect,
)

pytestmark = pytest.mark.anyio

CONFIG = QueueConfig(lease_seconds=0.25, max_queued=100)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    # Leases are held for one lease after a restart of the server, whose uptime counts whole seconds.
    if (await client.info("server"))["uptime_in_seconds"] < 1:
        await asyncio.sleep(1)
    yield client
    await client.aclose()


@pytest.fixture
def queue(redis: Redis) -> Queue:
    return Queue(redis, CONFIG)


def new(job_id: str, client: str = "local", *, cost: int = 10, weight: float = 1.0, model: str = "m") -> NewJob:
    return NewJob(id=job_id, model=model, client=client, cost=cost, weight=weight, payload={"n": job_id})


def said(job_id: str, attempt: int, sequence: int, event: str | None = "tokens", **data: Any) -> Publication:
    return Publication(job_id=job_id, attempt=attempt, sequence=sequence, event=event, data=data)


async def take(queue: Queue, limit: int = 1, *, budget: int = 10_000, worker: str = "w") -> list[str]:
    claims = await queue.claim("m", worker, budget=budget, limit=limit, alone=False)
    return [claim.id for claim in claims]


async def events(queue: Queue, job_id: str) -> list[tuple[str, str]]:
    entries = await queue.redis.xrange(f"{CONFIG.prefix}events:{job_id}")
    return [(entry_id.decode(), fields[b"event"].decode()) for entry_id, fields in entries]


async def lose_lease() -> None:
    await asyncio.sleep(CONFIG.lease_seconds + 0.05)


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


async def test_blobs_keep_to_the_budget(redis: Redis) -> None:
    blobs = Blobs(redis, CONFIG, BlobConfig(max_bytes=100, ttl_seconds=0.2))
    await blobs.put("a/image", b"x" * 60)
    with pytest.raises(BlobStoreFull):
        await blobs.put("b/image", b"y" * 41)
    await blobs.put("a/image", b"z" * 50)  # in place of the other
    await blobs.put("b/image", bytes(range(50)))
    assert await blobs.get("b/image") == bytes(range(50))
    assert await blobs.bytes_used() == 100
    assert await blobs.delete("a/image")
    assert not await blobs.delete("a/image")
    assert await blobs.bytes_used() == 50
    await asyncio.sleep(0.25)
    assert await blobs.get("b/image") is None
    await blobs.put("c", b"w" * 100)  # expired bytes are given back
    assert await blobs.bytes_used() == 100


async def held(queue: Queue, job_id: str, *names: str) -> Blobs:
    """A store with these blobs, 10 bytes each, that the job was submitted with."""
    blobs = Blobs(queue.redis, CONFIG, BlobConfig(max_bytes=100, ttl_seconds=0.2))
    for name in names:
        await blobs.put(name, b"0123456789")
    await queue.submit(dataclasses.replace(new(job_id), blobs=names))
    return blobs


@pytest.mark.parametrize("end", ["finished", "canceled while queued", "lost", "canceled by nobody", "released"])
async def test_however_a_job_ends_its_blobs_are_given_back(queue: Queue, end: str) -> None:
    blobs = await held(queue, "a", "a/image", "a/mask")
    await blobs.put("other", b"0123456789")
    if end == "canceled while queued":
        await queue.cancel("a")
    elif end == "lost":
        for _ in range(CONFIG.max_lost):
            assert await take(queue) == ["a"]
            await lose_lease()
        assert await take(queue) == []
    else:
        assert await take(queue) == ["a"]
        if end == "finished":
            await queue.finish("a", 1, 1, state="failed", event="failed", data={})
        elif end == "released":
            assert await queue.release("a", 1) == "ok"
            assert await blobs.get("a/image") is not None  # it goes on, elsewhere
            await queue.cancel("a")
        else:
            await queue.cancel("a")
            await lose_lease()
            assert await take(queue) == []
    assert [await blobs.get(name) for name in ("a/image", "a/mask")] == [None, None]
    await blobs.put("c", b"w" * 10)
    assert await blobs.bytes_used() == (10 if end in ("lost", "canceled by nobody") else 20)  # "other" had 0.2 s


async def test_blobs_wait_for_their_job_and_for_no_other(queue: Queue) -> None:
    blobs = await held(queue, "a", "a/image")
    await blobs.put("b/image", b"0123456789")  # whose job never came
    await asyncio.sleep(0.25)
    await blobs.put("c", b"")
    assert (await blobs.get("a/image"), await blobs.get("b/image")) == (b"0123456789", None)
    assert await blobs.bytes_used() == 10
    assert CONFIG.held_seconds - 10 < await queue.redis.ttl(f"{CONFIG.prefix}blob:a/image") <= CONFIG.held_seconds


async def test_results_are_the_attempts_own_and_live_as_long_as_the_job(queue: Queue) -> None:
    blobs = await held(queue, "a", "a/image")
    await take(queue)
    assert await blobs.put("a/result/1/0", b"zombie", job=("a", 1))
    await lose_lease()
    await take(queue, worker="heir")
    assert not await blobs.put("a/result/1/1", b"zombie", job=("a", 1))
    assert await blobs.put("a/result/2/0", b"heir", job=("a", 2))
    await asyncio.sleep(0.25)  # longer than bytes live that no job holds
    await queue.finish("a", 2, 1, state="succeeded", event="completed", data={}, keep=["a/result/2/0"])
    assert await blobs.get("a/result/2/0") == b"heir"
    assert [await blobs.get(f"a/result/1/{i}") for i in range(2)] == [None, None]
    assert await blobs.bytes_used() == 4
    job = await queue.redis.pexpiretime(f"{CONFIG.prefix}job:a")
    picture = await queue.redis.pexpiretime(f"{CONFIG.prefix}blob:a/result/2/0")
    assert picture >= job
    assert not await blobs.put("a/result/2/1", b"late", job=("a", 2))


async def test_cards_merge_per_model_and_expire(redis: Redis) -> None:
    cards = Cards(redis, CONFIG, ttl_seconds=0.3)
    demo = {"name": "demo", "grid": [16, 16]}
    for worker, tokens in (("w1", 100), ("w2", 300)):
        capacity = {"cache_tokens": tokens, "page_size": 16}
        await cards.put(worker, {"worker": worker, "models": [{"card": demo, "capacity": capacity}]})
    expected = {"card": demo, "workers": 2, "capacity": {"cache_tokens": 300, "page_size": 16}}
    assert await cards.models() == {"demo": expected}
    await cards.remove("w2")
    assert [card["worker"] for card in await cards.all()] == ["w1"]
    await cards.put_palette("demo", b"\x00\xff" * 24)
    assert await cards.keep_palette("demo")
    assert await cards.palette("demo") == b"\x00\xff" * 24
    await asyncio.sleep(0.35)
    assert await cards.models() == {}
    assert not await cards.keep_palette("unknown")


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

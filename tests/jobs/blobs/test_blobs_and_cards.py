"""What lies beside the queue: bytes that live as long as their job, and workers' cards."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from redis.asyncio import Redis

from service.jobs import BlobConfig, BlobStore, BlobStoreFull, Queue, WorkerCards
from service.jobs.spec import SPEC_VERSION
from tests.support.queue import CONFIG, lose_leases, new, stored_number, take

pytestmark = pytest.mark.anyio


async def test_blobs_keep_to_the_budget(redis: Redis) -> None:
    blobs = BlobStore(redis, CONFIG, BlobConfig(max_bytes=100, uploads_share=1, ttl_seconds=0.2))
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


async def held(queue: Queue, job_id: str, *names: str, ttl: float = 0.2) -> BlobStore:
    """A store with these blobs, 10 bytes each, that the job was submitted with."""
    blobs = BlobStore(queue.redis, CONFIG, BlobConfig(max_bytes=100, uploads_share=1, ttl_seconds=ttl))
    for name in names:
        await blobs.put(name, b"0123456789")
    await queue.submit(dataclasses.replace(new(job_id), blobs=names))
    return blobs


@pytest.mark.parametrize("end", ["finished", "canceled while queued", "lost", "canceled by nobody", "released"])
async def test_however_a_job_ends_its_blobs_are_given_back(queue: Queue, end: str) -> None:
    blobs = await held(queue, "a", "a/image", "a/mask", ttl=60)
    await blobs.put("other", b"0123456789")
    assert await blobs.bytes_by_kind() == {"uploads": 30, "pictures": 0}
    if end == "canceled while queued":
        await queue.cancel("a")
    elif end == "lost":
        for _ in range(1 + CONFIG.max_lost):
            assert await take(queue, empty=True) == ["a"]
            await lose_leases(queue)
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
            await lose_leases(queue)
            assert await take(queue) == []
    assert [await blobs.get(name) for name in ("a/image", "a/mask")] == [None, None]
    await blobs.put("c", b"w" * 10)
    assert await blobs.bytes_used() == 20


async def test_blobs_wait_for_their_job_and_for_no_other(queue: Queue) -> None:
    blobs = await held(queue, "a", "a/image")
    await blobs.put("b/image", b"0123456789")  # whose job never came
    await asyncio.sleep(0.25)
    await blobs.put("c", b"")
    assert (await blobs.get("a/image"), await blobs.get("b/image")) == (b"0123456789", None)
    assert await blobs.bytes_used() == 10
    assert CONFIG.held_seconds - 10 < await queue.redis.ttl(f"{CONFIG.prefix}blob:a/image") <= CONFIG.held_seconds


async def test_uploads_leave_room_for_the_pictures_of_the_jobs_that_were_accepted(queue: Queue) -> None:
    blobs = BlobStore(queue.redis, CONFIG, BlobConfig(max_bytes=100))
    await blobs.put("a/image", b"x" * 50)
    await queue.submit(dataclasses.replace(new("a"), blobs=("a/image",)))
    with pytest.raises(BlobStoreFull, match="50% of it that uploads may use"):
        await blobs.put("b/image", b"y")
    await take(queue)
    assert await blobs.put("a/result/1/0", b"z" * 50, job=("a", 1))
    with pytest.raises(BlobStoreFull):
        await blobs.put("a/result/1/1", b"z", job=("a", 1))
    await queue.finish("a", 1, 1, state="succeeded", event="completed", data={}, keep=["a/result/1/0"])
    await blobs.put("b/image", b"y" * 50)  # what the first one had is free again
    assert await stored_number(queue.redis, "upload_bytes") == 50


async def test_results_are_the_attempts_own_and_live_as_long_as_the_job(queue: Queue) -> None:
    blobs = await held(queue, "a", "a/image")
    await take(queue)
    assert await blobs.put("a/result/1/0", b"zombie", job=("a", 1))
    await lose_leases(queue)
    await take(queue, worker="heir", empty=True)
    assert not await blobs.put("a/result/1/1", b"zombie", job=("a", 1))
    assert await blobs.put("a/result/2/0", b"heir", job=("a", 2))
    await asyncio.sleep(0.25)  # longer than bytes live that no job holds
    await queue.finish("a", 2, 1, state="succeeded", event="completed", data={}, keep=["a/result/2/0"])
    assert await blobs.get("a/result/2/0") == b"heir"
    assert [await blobs.get(f"a/result/1/{i}") for i in range(2)] == [None, None]
    assert await blobs.bytes_used() == 4
    job = await queue.redis.pexpiretime(f"{CONFIG.prefix}job:a")
    picture = await queue.redis.pexpiretime(f"{CONFIG.prefix}blob:a/result/2/0")
    assert job <= picture < job + 1000
    deadline = await queue.redis.zscore(f"{CONFIG.prefix}blob_deadlines", "a/result/2/0")
    assert deadline is not None
    assert job <= deadline < job + 1000
    assert not await blobs.put("a/result/2/1", b"late", job=("a", 2))


async def test_finished_pictures_are_told_to_the_next_attempt(queue: Queue) -> None:
    blobs = await held(queue, "a")
    await take(queue)
    for index in (2, 0, 0):
        picture = {"index": index, "seed": 7}
        assert await blobs.put(f"a/result/1/{index}", b"picture", job=("a", 1), picture=picture)
    assert await blobs.bytes_by_kind() == {"uploads": 0, "pictures": 14}
    await lose_leases(queue)
    (claim,) = await queue.claim("m", "heir", budget=10, limit=1, alone=True, empty=True)
    assert not await blobs.put("a/result/1/1", b"zombie", job=("a", 1), picture={"index": 1})
    assert sorted(picture["index"] for picture in claim.pictures) == [0, 2]
    await queue.release("a", 2)
    (third,) = await queue.claim("m", "third", budget=10, limit=1, alone=True, empty=True)
    assert third.pictures == claim.pictures
    await queue.finish("a", 3, 1, state="failed", event="failed", data={})
    assert not await queue.redis.exists(f"{CONFIG.prefix}pictures:a")
    assert await blobs.bytes_used() == 0


async def test_cards_merge_per_model_and_expire(redis: Redis) -> None:
    cards = WorkerCards(redis, CONFIG, ttl_seconds=0.3)
    demo = {"name": "demo", "grid": [16, 16]}
    for worker, tokens, since in (("w1", 100, 7.0), ("w2", 300, 5.0)):
        served = [{"card": demo, "capacity": {"cache_tokens": tokens, "page_size": 16}}]
        await cards.put(worker, {"worker": worker, "models": served, "spec": SPEC_VERSION, "since": since})
    expected = {"card": demo, "workers": 2, "capacity": {"cache_tokens": 300, "page_size": 16}, "since": 5.0}
    assert await cards.models() == {"demo": expected}
    await cards.remove("w2")
    assert [card["worker"] for card in await cards.all()] == ["w1"]
    await cards.put_palette("demo", b"\x00\xff" * 24)
    assert await cards.keep_palette("demo")
    assert await cards.palette("demo") == b"\x00\xff" * 24
    await asyncio.sleep(0.35)
    assert await cards.models() == {}
    assert not await cards.keep_palette("unknown")

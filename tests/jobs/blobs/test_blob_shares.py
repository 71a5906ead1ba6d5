"""The blob store is for all clients: what one client's uploads, and the pictures of its ended jobs, may take of it."""

from __future__ import annotations

import dataclasses

import pytest
from redis.asyncio import Redis

from service.jobs import BlobConfig, BlobStore, BlobStoreFull, Queue, UploadQuotaFull
from tests.support.queue import CONFIG, new, stored_number, take

pytestmark = pytest.mark.anyio

LIMITS = BlobConfig(max_bytes=160)  # 80 for uploads, 40 for those of one client that is alone


async def submitted(queue: Queue, blobs: BlobStore, job_id: str, client: str, size: int) -> None:
    await blobs.put(f"{job_id}/image", b"x" * size, client=client)
    await queue.submit(dataclasses.replace(new(job_id, client), blobs=(f"{job_id}/image",)))


async def ended(queue: Queue, blobs: BlobStore, job_id: str, client: str, size: int) -> None:
    """A job that keeps a picture of so many bytes."""
    await queue.submit(new(job_id, client))
    assert await take(queue) == [job_id]
    assert await blobs.put(f"{job_id}/result", b"y" * size, job=(job_id, 1))
    await queue.finish(job_id, 1, 1, state="succeeded", event="completed", data={}, keep=[f"{job_id}/result"])


async def kept(blobs: BlobStore, *job_ids: str) -> list[bool]:
    return [await blobs.get(f"{job_id}/result") is not None for job_id in job_ids]


async def test_one_clients_uploads_leave_room_for_anothers(queue: Queue) -> None:
    blobs = BlobStore(queue.redis, CONFIG, LIMITS)
    await submitted(queue, blobs, "a1", "ann", 40)
    with pytest.raises(UploadQuotaFull, match="take 40 bytes, and 1 more would be above the 40"):
        await blobs.put("a2/image", b"x", client="ann")
    assert await blobs.put("a1/image", b"z" * 40, client="ann"), "the same again is no more"
    await submitted(queue, blobs, "b1", "ben", 20)
    with pytest.raises(UploadQuotaFull, match="take 20 bytes, and 1 more would be above the 20"):
        await blobs.put("b2/image", b"x", client="ben")
    await submitted(queue, blobs, "c1", "cleo", 10)  # however many do so, there is room for another
    await queue.cancel("a1")
    assert await blobs.put("b2/image", b"x" * 5, client="ben")
    assert await blobs.put("a2/image", b"x" * 20, client="ann")


async def test_uploads_are_given_back_however_they_end(queue: Queue) -> None:
    blobs = BlobStore(queue.redis, CONFIG, dataclasses.replace(LIMITS, ttl_seconds=0.05))
    await submitted(queue, blobs, "a1", "ann", 10)
    await blobs.put("a2/image", b"x" * 10, client="ann")  # whose job never comes
    await blobs.put("a3/image", b"x" * 10, client="ann")
    await blobs.delete("a3/image")
    assert await take(queue) == ["a1"]
    await queue.finish(
        "a1", 1, 1, state="succeeded", event="completed", data={}, keep=["a1/image"]
    )  # a fork may need it
    await queue.redis.zadd(f"{CONFIG.prefix}blob_deadlines", {"a2/image": 1})
    assert await blobs.put("a4/image", b"x" * 40, client="ann")
    assert await stored_number(queue.redis, "upload_bytes") == 40


async def test_blobs_that_an_old_replica_deleted_are_not_held_against_their_client(queue: Queue) -> None:
    blobs = BlobStore(queue.redis, CONFIG, LIMITS)
    names = [f"a{i}/image" for i in range(40)]
    for name in names:
        await blobs.put(name, b"x", client="ann")
    await queue.redis.hdel(f"{CONFIG.prefix}blob_sizes", *names)
    await queue.redis.decrby(f"{CONFIG.prefix}upload_bytes", 40)
    assert await blobs.put("a/image", b"x" * 40, client="ann")


async def test_pictures_of_ended_jobs_make_room_for_those_of_running_ones(queue: Queue) -> None:
    counted: list[int] = []
    blobs = BlobStore(queue.redis, CONFIG, LIMITS, evicted=counted.append)
    await ended(queue, blobs, "b1", "ben", 30)
    for i in range(1, 5):
        await ended(queue, blobs, f"a{i}", "ann", 30)
    await ended(queue, blobs, "c1", "cleo", 20)  # 170 bytes in all: the oldest of the client with most is deleted
    assert await kept(blobs, "a1", "a2", "a3", "a4", "b1", "c1") == [False, True, True, True, True, True]
    await ended(queue, blobs, "c2", "cleo", 40)
    assert await kept(blobs, "a2", "a3", "a4", "b1", "c1", "c2") == [False, True, True, True, True, True]
    assert await blobs.put("d1/image", b"x" * 40, client="dora"), "uploads find room, too"
    assert await kept(blobs, "a3", "a4", "b1", "c1", "c2") == [False, True, True, False, True]  # ann and cleo had 60
    assert counted == [1, 1, 2]
    assert await blobs.bytes_used() <= 160


async def test_what_running_jobs_hold_is_never_deleted(queue: Queue) -> None:
    blobs = BlobStore(queue.redis, CONFIG, LIMITS)
    await ended(queue, blobs, "a1", "ann", 20)
    await queue.submit(new("b1", "ben"))
    assert await take(queue) == ["b1"]
    for index in range(4):
        assert await blobs.put(f"b1/result/{index}", b"y" * 30, job=("b1", 1))
    with pytest.raises(BlobStoreFull):
        await blobs.put("b1/result/4", b"y" * 50, job=("b1", 1))
    assert await kept(blobs, "a1") == [True], "it would not have been enough"
    assert await blobs.put("b1/result/4", b"y" * 40, job=("b1", 1))
    assert await kept(blobs, "a1") == [False]
    assert all([await blobs.get(f"b1/result/{index}") for index in range(5)])


async def test_kept_bytes_are_forgotten_with_the_pictures(queue: Queue, redis: Redis) -> None:
    blobs = BlobStore(queue.redis, CONFIG, LIMITS)
    await ended(queue, blobs, "a1", "ann", 20)
    assert await redis.zscore(f"{CONFIG.prefix}kept_bytes", "ann") == 20
    await redis.zadd(f"{CONFIG.prefix}blob_deadlines", {"a1/result": 1})
    await blobs.put("b1/image", b"x", client="ben")
    left = [key async for key in redis.scan_iter(match=f"{CONFIG.prefix}kept*")]
    assert left == []
    assert await redis.hkeys(f"{CONFIG.prefix}blob_owners") == [b"b1/image"]

"""A queue on a real server, and short words for what its tests do."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from service.jobs import Job, NewJob, Publication, Queue, QueueConfig
from service.jobs.messages import encode_event

CONFIG = QueueConfig(lease_seconds=100, max_queued=100)  # leases end when a test says so, not when the machine is slow


def decoded(value: Any) -> str:
    """A string that Redis keeps. The client's type allows more than the bytes that it gives."""
    content: bytes = value
    return content.decode()


def new(job_id: str, client: str = "local", *, cost: int = 10, model: str = "m", **more: Any) -> NewJob:
    return NewJob(id=job_id, model=model, client=client, cost=cost, spec=job_id, **more)


def said(job_id: str, attempt: int, sequence: int, event: str | None = "tokens", **data: Any) -> Publication:
    return Publication(job_id=job_id, attempt=attempt, sequence=sequence, event=event, data=encode_event(data))


async def take(
    queue: Queue, limit: int = 1, *, budget: int = 10_000, worker: str = "w", empty: bool = False
) -> list[str]:
    claims = await queue.claim("m", worker, budget=budget, limit=limit, alone=False, empty=empty)
    return [claim.id for claim in claims]


async def stored_job(queue: Queue, job_id: str) -> Job:
    job = await queue.job(job_id)
    assert job is not None
    return job


async def stored_number(redis: Redis, name: str) -> int:
    return int(decoded(await redis.get(f"{CONFIG.prefix}{name}")))


async def events(queue: Queue, job_id: str) -> list[tuple[str, str]]:
    entries: Any = await queue.redis.xrange(f"{CONFIG.prefix}events:{job_id}")
    return [(decoded(entry_id), decoded(fields[b"event"])) for entry_id, fields in entries]


async def lose_leases(queue: Queue) -> None:
    """Of all who hold one now: it has ended."""
    leases = queue.config.line_key("leases", "m")
    for job_id in await queue.redis.zrange(leases, 0, -1):
        await queue.redis.zadd(leases, {decoded(job_id): 1})


async def waiting(queue: Queue) -> tuple[list[str], list[str]]:
    """the ready jobs and the poison candidates."""
    sets = [await queue.redis.zrange(CONFIG.line_key(name, "m"), 0, -1) for name in ("ready", "quarantine")]
    ready, candidates = ([decoded(job_id) for job_id in ids] for ids in sets)
    return ready, candidates


async def unfinished(queue: Queue) -> dict[str, int]:
    """Jobs queued or running, by client."""
    counts = await queue.redis.hgetall(f"{CONFIG.prefix}unfinished")
    return {decoded(client): int(count) for client, count in counts.items()}

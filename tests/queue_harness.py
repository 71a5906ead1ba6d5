"""A queue on a real server, and short words for what its tests do. Loaded as a plugin: see conftest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from service.queue import NewJob, Publication, Queue, QueueConfig, connect

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

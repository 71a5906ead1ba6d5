"""Reads the outcome of a run from Valkey, and what clients get afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.jobs import ModelLoad, Queue, QueueConfig, connect
from service.jobs.result import JobResult
from service.jobs.watch import decode
from service.settings import Settings
from tests.api.jobs.receiver import Receiver
from tests.chaos.clients import Clients
from tests.chaos.history import TERMINAL, Event, History, Outcome
from tests.chaos.jobs import Job
from tests.support.queue import decoded
from tests.support.waiting import soon

EMPTY_AT_THE_END = (
    "ready:", "leases:", "quarantine:", "unfinished", "blobs:", "pictures:", "previews:", "unended", "unstarted",
    "upload", "webhooks",
)  # fmt: skip
"""Prefixes of the keys that hold unfinished work."""


@contextlib.asynccontextmanager
async def looking(url: str) -> AsyncIterator[Redis]:
    redis = connect(url)
    try:
        yield redis
    finally:
        await redis.aclose()


async def quiet(url: str, seconds: float) -> None:
    """Waits until no job is ready or leased, at most this many seconds."""
    await until(url, seconds, lambda loads: not any(load.queued or load.running for load in loads))


async def drawing(url: str, seconds: float) -> None:
    """Waits until a job is leased, at most this many seconds: earlier faults would hit no job."""
    await until(url, seconds, lambda loads: any(load.running for load in loads))


async def until(url: str, seconds: float, true: Callable[[Collection[ModelLoad]], bool]) -> None:
    deadline = time.monotonic() + seconds
    async with looking(url) as redis:
        queue = Queue(redis, QueueConfig(namespace="chaos"))
        while time.monotonic() < deadline:
            with contextlib.suppress(RedisError, OSError):
                if true((await queue.stats()).values()):
                    return
            await asyncio.sleep(0.1)


async def called(history: History, receiver: Receiver, url: str, seconds: float) -> None:
    """Waits until no webhook is due any more, at most this many seconds; adds all calls to the history."""
    due = f"{QueueConfig(namespace='chaos').prefix}webhooks"
    async with looking(url) as redis:
        await soon(lambda: is_gone(redis, due), seconds)
    for _, body in receiver.calls:
        job = json.loads(body)["data"]
        history.called.setdefault(job["id"], []).append(job["status"])


async def is_gone(redis: Redis, key: str) -> bool:
    return not await redis.exists(key)


async def gather(history: History, clients: Clients, jobs: Sequence[Job], url: str, settings: Settings) -> None:
    """Adds streams, outcomes and leftovers to the history."""
    prefix = settings.queue_config.prefix
    by_key = {job.key: job for job in jobs}
    owner = {id: by_key[key] for key, ids in history.accepted.items() for id in ids}
    async with looking(url) as redis:
        queue = Queue(redis, settings.queue_config)
        async for name in redis.scan_iter(match=f"{prefix}job:*", count=1000):
            id = name.decode().removeprefix(f"{prefix}job:")
            job = await queue.job(id)
            if job is None:
                continue
            outcome = history.outcomes[id] = Outcome(job.state, (job.error or {}).get("code"))
            outcome.start_by, outcome.started_at = job.start_by, job.started_at
            if job.result is not None:
                images = JobResult.model_validate(job.result).images
                outcome.tokens = {image.index: image.tokens().tolist() for image in images}
            stored: Any = await redis.xrange(f"{prefix}events:{id}")
            history.streams[id] = [Event(e.id, e.name, e.json()) for entry in stored if (e := decode(*entry))]
        history.leftovers = await leftovers(redis, prefix)
    for id, outcome in history.outcomes.items():
        if (asked := owner.get(id)) is not None:
            await as_shown(history, clients, asked, id, outcome)
    for client, asked in {asked.client: asked for asked in owner.values()}.items():
        history.lists[client] = await listed(clients, asked)


async def listed(clients: Clients, job: Job) -> list[str]:
    """The list of the job's client."""
    found, path = [], "/v1/jobs?limit=50"
    while True:
        page = (await clients.get(job, path)).json()
        found += [told["id"] for told in page["jobs"]]
        if page["next_cursor"] is None:
            return found
        path = f"/v1/jobs?limit=50&cursor={page['next_cursor']}"


async def as_shown(history: History, clients: Clients, job: Job, id: str, outcome: Outcome) -> None:
    """Fetches the job and its pictures as its client; adds a complaint if the state differs."""
    told = (await clients.get(job, f"/v1/jobs/{id}")).json()
    if told.get("status") != outcome.state:
        history.complaints.append(f"job {id} is shown as {told.get('status')} but is {outcome.state}")
    if outcome.state not in TERMINAL.values():
        return
    for index in outcome.tokens:
        answer = await clients.get(job, f"/v1/jobs/{id}/images/{index}")
        if answer.status_code == 200:
            outcome.pictures[index] = hashlib.sha256(answer.content).hexdigest()


async def leftovers(redis: Redis, prefix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for start in EMPTY_AT_THE_END:
        async for name in redis.scan_iter(match=f"{prefix}{start}*", count=1000):
            found[name.decode().removeprefix(prefix)] = await amount(redis, name)
    held = 0
    async for name in redis.scan_iter(match=f"{prefix}blob:*", count=1000):
        held += await redis.strlen(name)
    accounted = int(await redis.get(f"{prefix}blob_bytes") or 0)
    found["blob bytes that nobody holds"] = accounted - held
    return found


async def amount(redis: Redis, name: bytes) -> float:
    match decoded(await redis.type(name)):
        case "zset":
            return float(await redis.zcard(name))
        case "set":
            return float(await redis.scard(name))
        case "list":
            return float(await redis.llen(name))
        case "hash":
            values: dict[Any, Any] = await redis.hgetall(name)
            return sum(_amount(value) for value in values.values())
        case _:
            return abs(float(await redis.get(name) or 0))


def _amount(value: bytes) -> float:
    """The absolute count; 1 for any other value."""
    try:
        return abs(float(value))
    except ValueError:
        return 1.0

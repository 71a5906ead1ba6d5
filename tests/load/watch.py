"""Samples the service from outside every few seconds (memory, CPU, queue, metrics); finds leftovers at the end."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import cast

import httpx
from redis.asyncio import Redis

from service.settings import Settings
from tests.load.record import Record, Sample
from tests.load.service import Service, cpu_of, rss_of, stolen

EVERY = 5.0  # s
GENERATOR = "generator"  # this process
STOLEN = "stolen"  # CPU time that other machines took on the same host
SERIES = ("kv_pages_used", "kv_pages", "num_requests_running", "num_requests_waiting", "http_streams", "queue_depth")

_SERIES = re.compile(rf"^arpg_({'|'.join(SERIES)})(?:{{[^}}]*}})? (\S+)$", re.MULTILINE)
_FIELDS = ("state", "client", "cost", "created_at", "started_at", "finished_at", "result")
_ENDED = frozenset({"succeeded", "failed", "canceled"})
_WAITING = ("ready", "quarantine")  # sorted sets, one per model
_HELD = (*_WAITING, "leases")
_KEPT = ("job", "events", "blob", "blobs", "pictures", "previews", "rate")  # keys of jobs and clients, which expire


class Watch:
    """Adds samples to the record, and fills in how its jobs ended."""

    def __init__(self, service: Service, record: Record, http: httpx.AsyncClient) -> None:
        self._service = service
        self._record = record
        self._http = http
        self._redis = Redis.from_url(service.redis_url, decode_responses=True)
        self._prefix = Settings(_env_file=None).queue_config.prefix
        self._pids = service.processes() | {GENERATOR: os.getpid()}

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            began = time.monotonic()
            self._record.samples.append(await self._sample())
            await self.settle()
            try:
                async with asyncio.timeout(max(0.1, EVERY - (time.monotonic() - began))):
                    await stop.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        await self._redis.aclose()

    async def settle(self) -> None:
        """Reads how the unfinished jobs ended."""
        ids = self._record.unfinished()
        async with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hmget(f"{self._prefix}job:{id}", _FIELDS)
            told = await pipe.execute()
        for id, values in zip(ids, told, strict=True):
            found = dict(zip(_FIELDS, values, strict=True))
            job = self._record.jobs[id]
            if found["state"] in _ENDED:
                job.state, job.client, job.cost = found["state"], found["client"], int(found["cost"])
                job.created, job.started, job.finished = (
                    int(found[name] or 0) / 1000 for name in ("created_at", "started_at", "finished_at")
                )
                job.images = (found["result"] or "").count('"seed"')

    async def held(self) -> int:
        """Bytes of all keys."""
        keys = [key async for key in self._redis.scan_iter(count=1000)]
        async with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.memory_usage(key, samples=0)
            return sum(size or 0 for size in await pipe.execute())

    async def left_over(self, patience: float) -> dict[str, float]:
        """Returns what is in the queue after all jobs ended. Waits up to `patience` seconds for an empty result."""
        return await _empty(self._held, patience)

    async def left_for_good(self, patience: float) -> dict[str, float]:
        """Returns keys that should have expired. Waits up to `patience` seconds for an empty result."""
        return await _empty(self._kept, patience)

    async def _held(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in _HELD:
            for key in await self._keys(name):
                found[key] = await self._redis.zcard(key)
        for client, count in (
            await cast(Awaitable[dict[str, str]], self._redis.hgetall(f"{self._prefix}unfinished"))
        ).items():
            found[f"unfinished jobs of {client}"] = int(count)
        series = await self._series()
        found |= {name: series[name] for name in SERIES if name != "kv_pages" and name in series}
        return {name: count for name, count in found.items() if count}

    async def _kept(self) -> dict[str, float]:
        kinds: Counter[str] = Counter()
        async for key in self._redis.scan_iter(match=f"{self._prefix}*", count=1000):
            kinds[key.removeprefix(self._prefix).partition(":")[0]] += 1
        return {f"{kind} keys": kinds[kind] for kind in _KEPT if kinds[kind]}

    async def _sample(self) -> Sample:
        rss, cpu = {}, {}
        for name, pid in self._pids.items():
            rss[name], cpu[name] = rss_of(pid), cpu_of(pid)
        cpu[STOLEN] = stolen()
        return Sample(time.time(), rss, cpu, await self._waiting(), await self._series())

    async def _waiting(self) -> dict[str, int]:
        """Counts queued jobs by client."""
        ids: list[str] = []
        for name in _WAITING:
            for key in await self._keys(name):
                ids += cast(list[str], await self._redis.zrange(key, 0, -1))
        async with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hget(f"{self._prefix}job:{id}", "client")
            return dict(Counter(await pipe.execute()))

    async def _keys(self, name: str) -> list[str]:
        """Keys of this name, one per line."""
        lines = await cast(Awaitable[list[str]], self._redis.zrange(f"{self._prefix}lines", 0, -1))
        return [f"{self._prefix}{name}:{line}" for line in lines]

    async def _series(self) -> dict[str, float]:
        key = self._service.keys.get("monitor")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = await self._http.get("/metrics", headers=headers)
        found: dict[str, float] = {}
        for name, value in _SERIES.findall(answer.text):
            found[name] = found.get(name, 0.0) + float(value)
        return found


async def _empty(look: Callable[[], Awaitable[dict[str, float]]], patience: float) -> dict[str, float]:
    """Looks until nothing is found or patience runs out. Returns the last result."""
    deadline = time.monotonic() + patience
    while True:
        found = await look()
        if not found or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.5)

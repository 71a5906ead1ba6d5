"""Worker cards: the live workers and the models that each serves. So the API needs no torch.

A worker's card is `{"worker": name, "models": [{"card": {…}, "capacity": {"cache_tokens", "page_size"}}],
"spec": version, "since": seconds}`, the model cards as `ModelCard.to_json()` gives them, the version that of the
JobSpec that the worker reads, the Unix time that of its start. It expires unless the worker's heartbeat renews it.
"""

from __future__ import annotations

import json
from typing import Any, cast

from redis.asyncio import Redis

from service.jobs.lua import dump, load_script, text
from service.jobs.messages import QueueConfig
from service.jobs.spec import SPEC_VERSION

LOAD_SECONDS = 5.0


class WorkerCards:
    def __init__(self, redis: Redis, config: QueueConfig, ttl_seconds: float = 15.0) -> None:
        self.redis = redis
        self.ttl_ms = max(1, round(ttl_seconds * 1000))
        self._prefix = config.prefix
        self._put = load_script(redis, "put_card", when_full=True)

    def _card(self, worker: str) -> str:
        return f"{self._prefix}card:{worker}"

    def _load(self, worker: str) -> str:
        return f"{self._prefix}load:{worker}"

    def _palette(self, model: str) -> str:
        return f"{self._prefix}palette:{model}"

    async def put(self, worker: str, card: dict[str, Any]) -> None:
        """Stores or renews a card. The worker's heartbeat calls it well within the time to live."""
        await self._put([self._prefix], [worker, dump(card), self.ttl_ms])

    async def remove(self, worker: str) -> None:
        """For a worker that shuts down: its card need not expire first."""
        async with self.redis.pipeline() as pipe:
            pipe.delete(self._card(worker))
            pipe.srem(f"{self._prefix}workers", worker)
            await pipe.execute()

    async def all(self) -> list[dict[str, Any]]:
        """The cards of the live workers, in the order of their names."""
        workers = sorted(text(name) for name in await self.redis.smembers(f"{self._prefix}workers"))
        if not workers:
            return []
        held = await self.redis.mget([self._card(worker) for worker in workers])
        gone = [worker for worker, card in zip(workers, held, strict=True) if card is None]
        if gone:
            # If such a worker is alive after all, its next heartbeat adds its name again.
            await self.redis.srem(f"{self._prefix}workers", *gone)
        return [json.loads(card) for card in held if card is not None]

    async def put_load(self, worker: str, load: dict[str, dict[str, float]]) -> None:
        """What the worker does now, by model. It counts for LOAD_SECONDS."""
        await self.redis.set(self._load(worker), dump(load), px=round(LOAD_SECONDS * 1000))

    async def loads(self) -> dict[str, dict[str, float]]:
        """Model → what its live workers do now, added up."""
        workers = [text(name) for name in await self.redis.smembers(f"{self._prefix}workers")]
        held = await self.redis.mget([self._load(worker) for worker in workers]) if workers else []
        loads: dict[str, dict[str, float]] = {}
        for load in held:
            for model, amounts in json.loads(load or "{}").items():
                known = loads.setdefault(model, {})
                for what, amount in amounts.items():
                    known[what] = known.get(what, 0) + amount
        return loads

    async def models(self) -> dict[str, dict[str, Any]]:
        """Model name → `{"card", "workers": how many serve it, "capacity": the largest of each kind, "since": when the
        first of them started}`. Workers that read another version of JobSpec don't count: during a rolling update no
        job is accepted that nobody can draw."""
        models: dict[str, dict[str, Any]] = {}
        for worker in await self.all():
            if worker.get("spec") != SPEC_VERSION:
                continue
            for served in worker["models"]:
                card = served["card"]
                since = worker.get("since", 0)
                known = models.setdefault(card["name"], {"card": card, "workers": 0, "capacity": {}, "since": since})
                known["workers"] += 1
                known["since"] = min(known["since"], since)
                for what, amount in served["capacity"].items():
                    known["capacity"][what] = max(known["capacity"].get(what, amount), amount)
        return models

    async def put_palette(self, model: str, palette: bytes) -> None:
        """palette: uint8 (codes, 4, 4, 3) as raw bytes, row-major. It expires unless `keep_palette` renews it."""
        await self.redis.set(self._palette(model), palette, px=self.ttl_ms * 4)

    async def keep_palette(self, model: str) -> bool:
        """Renews a palette. False: it has expired or was never stored; call `put_palette`."""
        return bool(await self.redis.pexpire(self._palette(model), self.ttl_ms * 4))

    async def palette(self, model: str) -> bytes | None:
        return cast(bytes | None, await self.redis.get(self._palette(model)))

"""Reads jobs and counts of a queue."""

from __future__ import annotations

import json
import math
from typing import Any, cast

from redis.asyncio import Redis

from service.jobs.lua import text
from service.jobs.messages import Job, ModelLoad, QueueConfig, State


class QueueReader:
    """The verbs that change nothing."""

    def __init__(self, redis: Redis, config: QueueConfig) -> None:
        self.redis = redis
        self.config = config

    def _key(self, name: str) -> str:
        return self.config.prefix + name

    async def job(self, job_id: str) -> Job | None:
        fields = await self.redis.hgetall(self._key(f"job:{job_id}"))
        if not fields:
            return None
        held = {text(name): text(value) for name, value in fields.items()}
        position: int | None = None
        if held["state"] == "queued":
            for places in ("ready", "quarantine"):
                place = await self.redis.zrank(self._key(f"{places}:{held['line']}"), job_id)
                position = position if place is None else cast(int, place)

        def seconds(name: str) -> float | None:
            return int(held[name]) / 1000 if name in held else None

        return Job(
            id=job_id,
            model=model_of(held["line"]),
            client=held["client"],
            state=cast(State, held["state"]),
            attempt=int(held["attempt"]),
            cost=int(held["cost"]),
            spec=held["payload"],
            result=json.loads(held["result"]) if "result" in held else None,
            error=json.loads(held["error"]) if "error" in held else None,
            created_at=seconds("created_at") or math.nan,
            started_at=seconds("started_at"),
            finished_at=seconds("finished_at"),
            expires_at=seconds("expires_at"),
            position=position,
        )

    async def state(self, job_id: str) -> State | None:
        state = await self.redis.hget(self._key(f"job:{job_id}"), "state")
        return None if state is None else cast(State, text(state))

    async def repeated(self, repeats: str) -> Job | None:
        """The job that an earlier request with the same `repeats` made, if it is still kept."""
        job_id = await self.redis.get(self.repeats_key(repeats))
        return None if job_id is None else await self.job(text(job_id))

    def repeats_key(self, repeats: str) -> str:
        return self._key(f"repeats:{repeats}")

    async def depth(self, model: str) -> int:
        """Jobs that wait for a worker of the model and of this version."""
        sets = [self.config.line_key(places, model) for places in ("ready", "quarantine")]
        return sum([int(await self.redis.zcard(waiting)) for waiting in sets])

    async def unfinished(self, client: str) -> int:
        """Jobs of a client that have not ended, of all models. A quota limits them."""
        return int(await self.redis.hget(self._key("unfinished"), client) or 0)

    async def stats(self) -> dict[str, ModelLoad]:
        """Waiting and leased jobs of every model that ever had a worker or a job, of all versions."""
        lines = sorted(await self._lines())
        async with self.redis.pipeline(transaction=False) as pipe:
            for line in lines:
                for places in ("ready", "quarantine", "leases"):
                    pipe.zcard(self._key(f"{places}:{line}"))
            counts = iter(await pipe.execute())
        loads = dict.fromkeys(map(model_of, lines), ModelLoad(queued=0, running=0))
        for line in lines:
            load, queued, running = loads[model_of(line)], next(counts) + next(counts), next(counts)
            loads[model_of(line)] = ModelLoad(queued=load.queued + queued, running=load.running + running)
        return loads

    async def _lines(self) -> dict[str, float]:
        """Line → when a worker last claimed from it, in ms by the server's clock."""
        claimed: Any = await self.redis.zrange(self._key("lines"), 0, -1, withscores=True)
        return {text(line): at for line, at in claimed}


def model_of(line: str) -> str:
    """The reverse of QueueConfig.line."""
    return line.rpartition("@")[0]

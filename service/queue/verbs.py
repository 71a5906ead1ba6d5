"""The queue: six atomic verbs in Lua, and this thin class over them.

Every verb may be repeated: redis-py sends a command again when its reply was lost. A job's attempt is its
fencing token: whoever lost the lease is refused by every verb.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any, cast

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import OutOfMemoryError

from service.queue.contract import (
    Answer,
    Canceled,
    Claim,
    Finished,
    Job,
    ModelLoad,
    NewJob,
    Publication,
    QueueConfig,
    QueueFull,
    State,
    Submitted,
)

# When a batch holds several publications of one job, the answer that asks most of the worker wins.
_WEIGHT: dict[Answer, int] = {"dup": 0, "ok": 1, "cancel": 2, "lost": 3}


def load_script(redis: Redis, name: str) -> AsyncScript:
    folder = files("service.queue")
    text = folder.joinpath("common.lua").read_text() + folder.joinpath(f"{name}.lua").read_text()
    return redis.register_script(text)


def dump(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Queue:
    """Jobs by model, with fair share between clients, leases and one event stream per job."""

    def __init__(self, redis: Redis, config: QueueConfig) -> None:
        self.redis = redis
        self.config = config
        self._submit = load_script(redis, "submit")
        self._claim = load_script(redis, "claim")
        self._publish = load_script(redis, "publish")
        self._finish = load_script(redis, "finish")
        self._release = load_script(redis, "release")
        self._cancel = load_script(redis, "cancel")

    def _key(self, name: str) -> str:
        return self.config.prefix + name

    async def submit(self, job: NewJob) -> Submitted:
        """Puts a job into its model's ready set; its first event is `queued`. A known id changes nothing.

        Raises QueueFull when the model's ready set (or the server's memory) is full.
        """
        arguments: list[Any] = [job.id, job.model, job.client, job.cost, job.weight, dump(job.payload)]
        arguments += [self.config.max_queued, self.config.held_ms, *job.blobs]
        try:
            created, state, ahead = await self._submit([self.config.prefix], arguments)
        except OutOfMemoryError as error:
            raise QueueFull("the queue's server is out of memory") from error
        if created < 0:
            raise QueueFull(f"{ahead} jobs wait for model {job.model!r} already")
        position = int(ahead) if ahead >= 0 else None
        return Submitted(id=job.id, created=bool(created), state=cast(State, text(state)), position=position)

    async def claim(self, model: str, worker: str, *, budget: int, limit: int, alone: bool) -> list[Claim]:
        """Leases up to `limit` jobs in their order while their costs fit `budget` (KV tokens).

        With `alone` (the worker draws nothing of this model) the head is taken whatever it costs. Expired leases come
        back first. One claim at a time for each worker and model.
        """
        config = self.config
        granted = await self._claim(
            [config.prefix],
            [
                model,
                worker,
                uuid.uuid4().hex,  # a repeat after a lost reply gets the same grant
                max(0, budget),
                limit,
                int(alone),
                config.lease_ms,
                config.max_lost,
                config.ttl_ms,
            ],
        )
        return [
            Claim(
                id=text(job_id),
                attempt=int(attempt),
                cost=int(cost),
                payload=json.loads(payload),
                cancel_requested=text(cancel) == "1",
                queued_seconds=int(queued_ms) / 1000,
            )
            for job_id, attempt, cost, payload, cancel, queued_ms in granted
        ]

    async def wait(self, models: Iterable[str], seconds: float) -> bool:
        """Sleeps until a job may be ready for one of these models, at most `seconds` (and 4)."""
        bells = [self._key(f"bell:{model}") for model in models]
        return await self.redis.blpop(bells, timeout=min(seconds, 4.0)) is not None

    async def publish(self, publications: Sequence[Publication]) -> dict[str, Answer]:
        """Renews the leases of all jobs named, and appends their events, in one call.

        `ok`: taken. `dup`: was there already. `cancel`: taken, and the client wants the job stopped.
        `lost`: refused, the job is no longer this attempt's: drop it.
        """
        if not publications:
            return {}
        arguments: list[Any] = [self.config.lease_ms]
        for p in publications:
            data = "" if p.event is None else dump(p.data or {})
            arguments += [p.job_id, p.attempt, p.sequence, p.event or "", data]
        answers: dict[str, Answer] = {}
        replies = await self._publish([self.config.prefix], arguments)
        for publication, reply in zip(publications, replies, strict=True):
            answer = cast(Answer, text(reply))
            held = answers.get(publication.job_id, "dup")
            answers[publication.job_id] = max(held, answer, key=_WEIGHT.__getitem__)
        return answers

    async def finish(
        self,
        job_id: str,
        attempt: int,
        sequence: int,
        *,
        state: State,
        event: str,
        data: dict[str, Any],
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        keep: Iterable[str] = (),
    ) -> Finished:
        """Ends a job with its one terminal event; it and its events expire after `result_ttl_seconds`, and with them
        the blobs to `keep`. All others that the job held are given back."""
        arguments: list[Any] = [job_id, attempt, sequence, state, event, dump(data)]
        arguments += ["" if value is None else dump(value) for value in (result, error)]
        arguments += [self.config.ttl_ms, *keep]
        return cast(Finished, text(await self._finish([self.config.prefix], arguments)))

    async def release(self, job_id: str, attempt: int) -> Finished:
        """Gives a running job back to its old place in the ready set, without blame (a drain)."""
        return cast(Finished, text(await self._release([self.config.prefix], [job_id, attempt, self.config.ttl_ms])))

    async def cancel(self, job_id: str) -> Canceled:
        """A queued job ends at once; a running one is flagged (`requested`) and its worker stops it."""
        return cast(Canceled, text(await self._cancel([self.config.prefix], [job_id, self.config.ttl_ms])))

    async def job(self, job_id: str) -> Job | None:
        fields = await self.redis.hgetall(self._key(f"job:{job_id}"))
        if not fields:
            return None
        held = {text(name): text(value) for name, value in fields.items()}
        position = None
        if held["state"] == "queued":
            position = cast(int | None, await self.redis.zrank(self._key(f"ready:{held['model']}"), job_id))

        def seconds(name: str) -> float | None:
            return int(held[name]) / 1000 if name in held else None

        return Job(
            id=job_id,
            model=held["model"],
            client=held["client"],
            state=cast(State, held["state"]),
            attempt=int(held["attempt"]),
            cost=int(held["cost"]),
            payload=json.loads(held["payload"]),
            result=json.loads(held["result"]) if "result" in held else None,
            error=json.loads(held["error"]) if "error" in held else None,
            created_at=seconds("created_at") or math.nan,
            started_at=seconds("started_at"),
            finished_at=seconds("finished_at"),
            expires_at=seconds("expires_at"),
            position=position,
        )

    async def depth(self, model: str) -> int:
        """Jobs in the model's ready set."""
        return int(await self.redis.zcard(self._key(f"ready:{model}")))

    async def stats(self) -> dict[str, ModelLoad]:
        """Ready and leased jobs of every model that ever had one."""
        models = sorted(text(name) for name in await self.redis.smembers(self._key("models")))
        async with self.redis.pipeline(transaction=False) as pipe:
            for model in models:
                pipe.zcard(self._key(f"ready:{model}"))
                pipe.zcard(self._key(f"leases:{model}"))
            counts = iter(await pipe.execute())
        return {model: ModelLoad(queued=next(counts), running=next(counts)) for model in models}

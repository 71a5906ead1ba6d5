"""Reads jobs and counts of a queue."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis

from service.jobs.lua import text
from service.jobs.messages import Job, ModelLoad, QueueConfig, State, Webhook, WebhookState
from service.jobs.standing import Fields, Standing

PAGE = 200
"""The list is read so many jobs at a time in search of those in one state."""

LISTED = ("line", "state", "created_at", "started_at", "finished_at", "expires_at", "error", "about")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobHead:
    """What a request for something of a job needs to know. task: None if an older version submitted the job."""

    id: str
    model: str
    client: str
    state: State
    task: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedJob:
    """What a client's list tells of a job. about: as in NewJob; empty if an older version submitted the job."""

    id: str
    model: str
    state: State
    created_at: float  # unix seconds, as all times here
    started_at: float | None
    finished_at: float | None
    expires_at: float | None
    position: int | None
    eta_seconds: float | None  # as in Job
    error: dict[str, Any] | None
    about: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Some of a client's jobs, the newest first. cursor: where the next page begins; None: there is none."""

    jobs: list[ListedJob]
    cursor: int | None


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
        standing = None
        if held["state"] in ("queued", "running"):
            [standing] = await self._standings({job_id: held})
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
            created_at=_seconds(held, "created_at") or math.nan,
            started_at=_seconds(held, "started_at"),
            finished_at=_seconds(held, "finished_at"),
            expires_at=_seconds(held, "expires_at"),
            position=standing.position if standing and held["state"] == "queued" else None,
            start_by=_seconds(held, "start_by"),
            eta_seconds=None if standing is None else standing.eta_seconds(held, self.config.lease_ms),
            webhook=_webhook(held),
            request_id=held.get("request", ""),
        )

    async def jobs_of(
        self, client: str, *, limit: int, state: State | None = None, cursor: int | None = None
    ) -> JobPage:
        """A client's jobs, the newest first, from a page's cursor on. state: only these."""
        found: list[ListedJob] = []
        top: Any = "+inf" if cursor is None else cursor
        size = limit + 1 if state is None else PAGE
        while True:
            page = await self.redis.zrevrangebyscore(
                self._key(f"jobs_of:{client}"), top, "-inf", start=0, num=size, withscores=True
            )
            places = {text(job_id): int(place) for job_id, place in cast(list[tuple[Any, float]], page)}
            for job in await self._listed(list(places), state):
                if len(found) == limit:
                    return JobPage(jobs=found, cursor=places[job.id])
                found.append(job)
            if len(places) < size:
                return JobPage(jobs=found, cursor=None)
            top = f"({min(places.values())}"

    async def _listed(self, ids: Sequence[str], state: State | None) -> list[ListedJob]:
        """Those that are still kept, in this state."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(self._key(f"job:{job_id}"), list(LISTED))
            rows = await pipe.execute()
        jobs: dict[str, Fields] = {}
        for job_id, row in zip(ids, rows, strict=True):
            held = {name: text(value) for name, value in zip(LISTED, row, strict=True) if value is not None}
            if "state" in held and held["state"] == (state or held["state"]):
                jobs[job_id] = held
        unfinished = {job_id: held for job_id, held in jobs.items() if held["state"] in ("queued", "running")}
        await self._add_progress(unfinished)
        standings = dict(zip(unfinished, await self._standings(unfinished), strict=True))
        lease_ms = self.config.lease_ms
        return [
            ListedJob(
                id=job_id,
                model=model_of(held["line"]),
                state=cast(State, held["state"]),
                created_at=_seconds(held, "created_at") or math.nan,
                started_at=_seconds(held, "started_at"),
                finished_at=_seconds(held, "finished_at"),
                expires_at=_seconds(held, "expires_at"),
                position=standings[job_id].position if held["state"] == "queued" else None,
                eta_seconds=standings[job_id].eta_seconds(held, lease_ms) if job_id in standings else None,
                error=json.loads(held["error"]) if "error" in held else None,
                about=json.loads(held.get("about", "{}")),
            )
            for job_id, held in jobs.items()
        ]

    async def _add_progress(self, jobs: dict[str, Fields]) -> None:
        """Adds what an estimate needs to know of each job."""
        wanted = {
            job_id: [
                "attempt",
                "effort",
                *(f"progress:{k}" for k in range(json.loads(held.get("about", "{}")).get("n", 1))),
            ]
            for job_id, held in jobs.items()
        }
        async with self.redis.pipeline(transaction=False) as pipe:
            for job_id, names in wanted.items():
                pipe.hmget(self._key(f"job:{job_id}"), names)
            rows = await pipe.execute()
        for (job_id, names), row in zip(wanted.items(), rows, strict=True):
            jobs[job_id] |= {name: text(value) for name, value in zip(names, row, strict=True) if value is not None}

    async def _standings(self, jobs: dict[str, Fields]) -> list[Standing]:
        if not jobs:
            return []
        async with self.redis.pipeline(transaction=False) as pipe:
            for job_id, held in jobs.items():
                line = held["line"]
                pipe.zrank(self._key(f"ready:{line}"), job_id)
                pipe.zrank(self._key(f"quarantine:{line}"), job_id)
                pipe.hmget(self._key(f"pace:{line}"), ["gap", "run"])
                pipe.zscore(self._key("lines"), line)
            pipe.time()
            *answers, (seconds, micros) = await pipe.execute()
        now = seconds * 1000 + micros / 1000
        standings = []
        for ready, candidates, (gap, run), claimed_at in zip(*[iter(answers)] * 4, strict=True):
            heard = None if claimed_at is None else now - claimed_at
            standings.append(Standing(ready, candidates, gap and float(gap), run and float(run), heard, now))
        return standings

    async def head(self, job_id: str) -> JobHead | None:
        """Takes a third of the time that `job` takes."""
        fields = await self.redis.hmget(self._key(f"job:{job_id}"), ["line", "client", "state", "about"])
        line, client, state, about = (None if value is None else text(value) for value in fields)
        if line is None or client is None or state is None:
            return None
        task = json.loads(about or "{}").get("task")
        return JobHead(id=job_id, model=model_of(line), client=client, state=cast(State, state), task=task)

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

    async def oldest(self) -> dict[str, float]:
        """Model → seconds since the submission of its oldest waiting job; 0 where none waits."""
        lines, created = sorted(await self._lines()), self._key("job:*->created_at")
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for line in lines:
                for places in ("ready", "quarantine"):  # their order is not that of submission
                    pipe.sort(self._key(f"{places}:{line}"), start=0, num=1, by=created, get=[created])
            (seconds, microseconds), *found = await pipe.execute()
        now, ages = seconds + microseconds / 1e6, dict.fromkeys(map(model_of, lines), 0.0)
        for index, first in enumerate(found):
            model = model_of(lines[index // 2])
            if first and first[0] is not None:
                ages[model] = max(ages[model], now - int(first[0]) / 1000)
        return ages

    async def _lines(self) -> dict[str, float]:
        """Line → when a worker last claimed from it, in ms by the server's clock."""
        claimed: Any = await self.redis.zrange(self._key("lines"), 0, -1, withscores=True)
        return {text(line): at for line, at in claimed}


def model_of(line: str) -> str:
    """The reverse of QueueConfig.line."""
    return line.rpartition("@")[0]


def _seconds(held: Fields, name: str) -> float | None:
    return int(held[name]) / 1000 if name in held else None


def _webhook(held: Fields) -> Webhook | None:
    if "webhook" not in held:
        return None
    return Webhook(
        url=held["webhook"],
        state=cast(WebhookState, held.get("webhook_state", "pending")),
        tries=int(held.get("webhook_tries", 0)),
        error=held.get("webhook_error", ""),
    )

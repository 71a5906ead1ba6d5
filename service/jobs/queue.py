"""The queue: eight atomic verbs in Lua, and this thin class over them.

Every verb may be repeated: redis-py sends a command again when its reply was lost. A job's attempt is its
fencing token: whoever lost the lease is refused by every verb.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from service.jobs.messages import (
    AttemptKey,
    Canceled,
    Claim,
    Claims,
    EndedJob,
    Finished,
    NewJob,
    Publication,
    PublishStatus,
    QueueConfig,
    QueueFull,
    QuotaFull,
    State,
    Submitted,
    Suspected,
    encode_event,
)
from service.jobs.reader import QueueReader
from service.jobs.scripts import dump, load_script, text

# When a batch holds several publications of one attempt, the answer that asks most of the worker wins.
_WEIGHT: dict[PublishStatus, int] = {"dup": 0, "ok": 1, "cancel": 2, "lost": 3}


class Queue(QueueReader):
    """Jobs by model, with fair share between clients, leases, a quarantine and one event stream per job."""

    def __init__(self, redis: Redis, config: QueueConfig) -> None:
        super().__init__(redis, config)
        self._submit = load_script(redis, "submit")
        self._claim = load_script(redis, "claim")
        self._publish = load_script(redis, "publish")
        self._finish = load_script(redis, "finish")
        self._release = load_script(redis, "release")
        self._suspect = load_script(redis, "suspect")
        self._cancel = load_script(redis, "cancel")
        self._expire = load_script(redis, "expire")

    async def submit(self, job: NewJob) -> Submitted:
        """Puts a job into its model's ready set; its first event is `queued`. A known id changes nothing.

        Raises QuotaFull when the client has as many jobs as it may, QueueFull when as many jobs wait for the model as
        may (or the server's memory is full).
        """
        arguments: list[Any] = [job.id, job.model, job.client, job.priority]
        arguments += ["" if job.quota is None else job.quota, job.cost, job.weight, dump(job.payload)]
        arguments += [self.config.max_queued, self.config.held_ms, *job.blobs]
        try:
            created, state, ahead = await self._submit([self.config.prefix], arguments)
        except OutOfMemoryError as error:
            raise QueueFull("the queue's server is out of memory") from error
        if created == -2:
            raise QuotaFull(job.quota or 0)
        if created == -1:
            raise QueueFull(f"{ahead} jobs wait for model {job.model!r} already")
        position = int(ahead) if ahead >= 0 else None
        return Submitted(id=job.id, created=bool(created), state=cast(State, text(state)), position=position)

    async def claim(
        self,
        model: str,
        worker: str,
        *,
        budget: int,
        limit: int,
        alone: bool,
        empty: bool = False,
        nonce: str | None = None,
    ) -> Claims:
        """Leases up to `limit` jobs in their order while their costs fit `budget` (KV tokens).

        With `alone` (the worker draws nothing of this model) the head is taken whatever it costs. With `empty` (it
        draws nothing at all) it may get a crash suspect, and is to draw nothing beside it. Expired leases come back
        first. One claim at a time for each worker and model; one whose answer never came is repeated by its nonce,
        else its jobs would wait for their leases to end.
        """
        config = self.config
        granted, become_empty, ended = await self._claim(
            [config.prefix],
            [
                model,
                worker,
                nonce or uuid.uuid4().hex,
                max(0, budget),
                limit,
                int(alone),
                int(empty),
                config.lease_ms,
                config.max_lost,
                config.ttl_ms,
                config.suspect_ms,
            ],
        )
        claims = [
            Claim(
                id=text(job_id),
                attempt=int(attempt),
                cost=int(cost),
                payload=json.loads(payload),
                cancel_requested=text(cancel) == "1",
                queued_seconds=int(queued_ms) / 1000,
                alone=bool(as_suspect),
                pictures=tuple(json.loads(picture) for picture in pictures),
            )
            for job_id, attempt, cost, payload, cancel, queued_ms, as_suspect, pictures in granted
        ]
        return Claims(claims, become_empty=bool(become_empty), ended=_ended(ended))

    async def wait(self, models: Iterable[str], seconds: float) -> bool:
        """Sleeps until a job may be ready for one of these models, at most `seconds` (and 4)."""
        bells = [self._key(f"bell:{model}") for model in models]
        return await self.redis.blpop(bells, timeout=min(seconds, 4.0)) is not None

    async def publish(self, publications: Sequence[Publication]) -> dict[AttemptKey, PublishStatus]:
        """Renews the leases of all jobs named, and appends their events, in one call. An answer is an attempt's.

        A `preview` takes the place of the one before of the same `image_index`, and the job's end that of the last:
        who reads late, or again, does not find it.

        `ok`: taken. `dup`: was there already. `cancel`: taken, and the client wants the job stopped.
        `lost`: refused, the job is no longer this attempt's: drop it.
        """
        if not publications:
            return {}
        arguments: list[Any] = [self.config.lease_ms]
        for p in publications:
            arguments += [p.job_id, p.attempt, p.sequence, p.event or "", p.data]
        answers: dict[AttemptKey, PublishStatus] = {}
        replies = await self._publish([self.config.prefix], arguments)
        for publication, reply in zip(publications, replies, strict=True):
            answer = cast(PublishStatus, text(reply))
            key = (publication.job_id, publication.attempt)
            held = answers.get(key, "dup")
            answers[key] = max(held, answer, key=_WEIGHT.__getitem__)
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
        arguments: list[Any] = [job_id, attempt, sequence, state, event, encode_event(data)]
        arguments += ["" if value is None else dump(value) for value in (result, error)]
        arguments += [self.config.ttl_ms, *keep]
        return cast(Finished, text(await self._finish([self.config.prefix], arguments)))

    async def release(self, job_id: str, attempt: int) -> Finished:
        """Gives a running job back to its old place in the ready set, without blame (a drain)."""
        return cast(Finished, text(await self._release([self.config.prefix], [job_id, attempt, self.config.ttl_ms])))

    async def suspect(self, job_id: str, attempt: int, code: str, message: str) -> Suspected:
        """Gives a running job back that the engine failed over, or over another beside it: it is drawn again with
        nothing beside it. `failed`: it was so already, too often, and ends with this error."""
        arguments: list[Any] = [job_id, attempt, code, message, self.config.max_lost, self.config.ttl_ms]
        return cast(Suspected, text(await self._suspect([self.config.prefix], arguments)))

    async def cancel(self, job_id: str) -> Canceled:
        """A queued job ends at once; a running one is flagged (`requested`) and its worker stops it. `canceled`: by
        this call, so one of many gets it."""
        return cast(Canceled, text(await self._cancel([self.config.prefix], [job_id, self.config.ttl_ms])))

    async def expire(self, limit: int = 8) -> list[EndedJob]:
        """Fails jobs (`expired_waiting`) that nobody has drawn within `held_seconds`, since their blobs are gone by
        then. It needs no worker: of a model that is served no more, nobody claims. EventHub calls it now and then."""
        config = self.config
        return _ended(await self._expire([config.prefix], [limit, config.ttl_ms, f"{config.held_seconds:g}"]))


def _ended(told: Iterable[Sequence[Any]]) -> list[EndedJob]:
    return [
        EndedJob(id=text(job_id), state=cast(State, text(state)), payload=json.loads(payload))
        for job_id, state, payload in told
    ]

"""The queue: eight atomic verbs in Lua, and a thin class over them.

Every verb may be repeated, because redis-py repeats a command whose reply was lost. A job's attempt is its fencing
token: every verb refuses a worker that has lost the lease.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from service.jobs.lua import dump, load_script, text
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
    Quarantined,
    QueueConfig,
    QueueFull,
    QuotaFull,
    State,
    Submitted,
    encode_event,
)
from service.jobs.reader import QueueReader, model_of

UNLIMITED = 2**52

# Of several answers for one attempt in a batch, the one with the greatest weight counts.
_WEIGHT: dict[PublishStatus, int] = {"dup": 0, "ok": 1, "cancel": 2, "lost": 3}


class Queue(QueueReader):
    """Jobs by model and version, with fair share between clients, leases, a quarantine and one event stream per job."""

    def __init__(self, redis: Redis, config: QueueConfig) -> None:
        super().__init__(redis, config)
        self._submit = load_script(redis, "submit")
        self._claim = load_script(redis, "claim")
        self._publish = load_script(redis, "publish", when_full=True)
        self._finish = load_script(redis, "finish", when_full=True)
        self._release = load_script(redis, "release", when_full=True)
        self._quarantine = load_script(redis, "quarantine", when_full=True)
        self._cancel = load_script(redis, "cancel", when_full=True)
        self._expire = load_script(redis, "expire", when_full=True)

    async def submit(self, job: NewJob) -> Submitted:
        """Puts a job into its model's ready set; its first event is `queued`. A known id, or a request that repeats
        another one (`repeats`), changes nothing.

        Raises QuotaFull when the client has used up its quota, QueueFull when too many jobs wait for the model or the
        server's memory is full.
        """
        arguments: list[Any] = [job.id, self.config.line(job.model), job.client, job.priority]
        arguments += ["" if job.quota is None else job.quota, job.cost, job.weight, job.spec]
        arguments += [self.config.max_queued, self.config.held_ms, job.pixels, job.effort, dump(dict(job.about))]
        arguments.append("" if job.start_seconds is None else max(1, round(job.start_seconds * 1000)))
        arguments += [job.webhook, self.config.max_listed, job.request_id, *job.blobs]
        try:
            keys = [self.config.prefix, *([self.repeats_key(job.repeats)] if job.repeats else [])]
            created, state, ahead, id = await self._submit(keys, arguments)
        except OutOfMemoryError as error:
            raise QueueFull("the queue's server is out of memory") from error
        if created == -2:
            raise QuotaFull(job.quota or 0)
        if created == -1:
            raise QueueFull(f"{ahead} jobs wait for model {job.model!r} already")
        position = int(ahead) if ahead >= 0 else None
        return Submitted(id=text(id), created=bool(created), state=cast(State, text(state)), position=position)

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
        most_pixels: int = UNLIMITED,
        held: Mapping[str, int] | None = None,
    ) -> Claims:
        """Leases up to `limit` jobs in their order while their costs fit `budget` (KV tokens).

        alone: the worker draws nothing of this model, so it gets the first job whatever its cost. empty: it draws
        nothing at all, so it may get a poison candidate, and must draw nothing beside it. nonce: a claim whose answer
        was lost is repeated with the same one, and gets the same jobs. held: client → pixels of its pictures that the
        worker has claimed and not stored. A client that holds half of most_pixels, or any while all together hold
        most_pixels, is passed over.

        Jobs whose lease has expired come first. A job whose start deadline is over ends here (`start_timeout`), and
        is never granted. One claim at a time for each worker and model.
        """
        config = self.config
        granted, become_empty, ended, taken_over = await self._claim(
            [config.prefix],
            [
                config.line(model),
                worker,
                nonce or uuid.uuid4().hex,
                max(0, budget),
                limit,
                int(alone),
                int(empty),
                config.lease_ms,
                config.max_lost,
                config.ttl_ms,
                config.quarantine_ms,
                most_pixels,
                *(value for client_and_pixels in (held or {}).items() for value in client_and_pixels),
            ],
        )
        claims = [
            Claim(
                id=text(job_id),
                attempt=int(attempt),
                cost=int(cost),
                spec=text(spec),
                cancel_requested=text(cancel) == "1",
                queued_seconds=int(queued_ms) / 1000,
                alone=bool(as_candidate),
                pictures=tuple(json.loads(picture) for picture in pictures),
                client=text(client),
                pixels=int(pixels),
                request_id=text(request),
            )
            for job_id, attempt, cost, spec, cancel, queued_ms, as_candidate, pictures, client, pixels, request in (
                granted
            )
        ]
        return Claims(claims, become_empty=bool(become_empty), ended=_ended(ended), taken_over=int(taken_over))

    async def wait(self, models: Iterable[str], seconds: float) -> bool:
        """Waits until a job may be ready for one of these models, at most `seconds`, and never longer than 4."""
        notifications = [self.config.line_key("bell", model) for model in models]
        return await self.redis.blpop(notifications, timeout=min(seconds, 4.0)) is not None

    async def publish(self, publications: Sequence[Publication]) -> dict[AttemptKey, PublishStatus]:
        """Renews the leases of all these jobs and appends their events, in one call. Returns an answer per attempt.

        A `preview` replaces the one before of the same `image_index`, and the job's end removes the last: a client
        that reads later does not get them.

        `ok`: appended. `dup`: was there already. `cancel`: appended, and the client wants the job stopped. `lost`:
        refused, because the job belongs to another attempt.
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
        """Ends a job with its one terminal event. The job, its events and the blobs to `keep` expire after
        `result_ttl_seconds`; its other blobs are deleted."""
        arguments: list[Any] = [job_id, attempt, sequence, state, event, encode_event(data)]
        arguments += ["" if value is None else dump(value) for value in (result, error)]
        arguments += [self.config.ttl_ms, *keep]
        return cast(Finished, text(await self._finish([self.config.prefix], arguments)))

    async def release(self, job_id: str, attempt: int) -> Finished:
        """Returns a running job to its old place in the ready set, without blame: the worker drains."""
        return cast(Finished, text(await self._release([self.config.prefix], [job_id, attempt, self.config.ttl_ms])))

    async def quarantine(self, job_id: str, attempt: int, code: str, message: str) -> Quarantined:
        """Returns a running job as a poison candidate: the engine failed because of it, or of another job beside it.
        It is drawn again with nothing beside it. `failed`: it was alone too often already, and ends with this error."""
        arguments: list[Any] = [job_id, attempt, code, message, self.config.max_lost, self.config.ttl_ms]
        return cast(Quarantined, text(await self._quarantine([self.config.prefix], arguments)))

    async def cancel(self, job_id: str) -> Canceled:
        """Ends a queued job at once; flags a running one (`requested`), and its worker stops it. `canceled`: this very
        call ended it; only one call gets this answer."""
        return cast(Canceled, text(await self._cancel([self.config.prefix], [job_id, self.config.ttl_ms])))

    async def expire(self, limit: int = 8) -> list[EndedJob]:
        """Fails jobs (`expired_waiting`) that were not drawn within `held_seconds`, after which their blobs are gone,
        and jobs (`unsupported_job_version`) whose model only workers of other versions serve now. EventHub calls it now
        and then, so it works without a worker."""
        config = self.config
        arguments: list[Any] = [limit, config.ttl_ms, f"{config.held_seconds:g}", *await self._unread_lines()]
        return _ended(await self._expire([config.prefix], arguments))

    async def expire_unstarted(self) -> list[EndedJob]:
        """Fails jobs whose start deadline is over (`start_timeout`), 64 at most, as `claim` and `expire` do too."""
        config = self.config
        return _ended(await self._expire([config.prefix], [0, config.ttl_ms, f"{config.held_seconds:g}"]))

    async def _unread_lines(self) -> list[str]:
        """Those without a claim for `unread_seconds`, while workers of another version claimed jobs for the model."""
        lines = await self._lines()
        newest: dict[str, float] = {}
        for line, at in lines.items():
            newest[model_of(line)] = max(at, newest.get(model_of(line), at))
        return [line for line, at in lines.items() if newest[model_of(line)] - at > self.config.unread_seconds * 1000]


def _ended(entries: Iterable[Sequence[Any]]) -> list[EndedJob]:
    return [
        EndedJob(
            id=text(job_id),
            state=cast(State, text(state)),
            spec=text(spec),
            code=text(code),
            request_id=text(request),
            seconds=int(ms) / 1000,
        )
        for job_id, state, spec, code, request, ms in entries
    ]

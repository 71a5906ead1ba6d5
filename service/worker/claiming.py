"""How a model worker claims jobs, and when it may: a poison candidate is drawn with nothing beside it."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from redis.exceptions import ConnectionError, TimeoutError

from service.jobs import Claims, Queue
from service.jobs.messages import AttemptKey
from service.logs import Outage

log = logging.getLogger(__name__)

REPLY_LOST = (ConnectionError, TimeoutError, OSError)  # Redis may have run the command
CLAIM_LIMIT = 32  # jobs in one call
IDLE_WAIT = 1.0  # s: an idle model worker claims so often without a notification, as leases may have expired


class Claimer:
    """For one model of a worker."""

    def __init__(self, queue: Queue, model: str, worker: str, quarantine: Quarantine, most_pixels: int) -> None:
        # The queue must hear an idle worker several times in each lease: see hear in common.lua.
        self.idle_wait = min(IDLE_WAIT, queue.config.lease_seconds / 5)
        self._queue = queue
        self._model = model
        self._worker = worker
        self._quarantine = quarantine
        self._most_pixels = most_pixels
        self._outage = Outage(log)

    async def ask(
        self, stopping: asyncio.Future[Any], *, budget: int, alone: bool, held: Mapping[str, int]
    ) -> Claims | None:
        """Claims until the queue answers. A repeated claim has the same nonce, so jobs of a lost answer come again.
        None: the worker leaves. Only in this model's turn."""
        nonce, empty = uuid.uuid4().hex, self._quarantine.empty
        while not stopping.done():
            try:
                claims = await self._queue.claim(
                    self._model,
                    self._worker,
                    budget=budget,
                    limit=CLAIM_LIMIT,
                    alone=alone,
                    empty=empty,
                    nonce=nonce,
                    most_pixels=self._most_pixels,
                    held=held,
                )
            except REPLY_LOST as error:
                self._outage.failed("claiming for %s: %s; trying again", self._model, error)
                await asyncio.wait({stopping}, timeout=self.idle_wait)
            else:
                self._outage.over(f"claiming for {self._model}: redis answers")
                self._quarantine.answered(self._model, claims)
                return claims
        return None

    async def wait_for_notification(self) -> None:
        """Returns when there may be a job, or after `idle_wait`."""
        await self._queue.wait([self._model], self.idle_wait)


class Quarantine:
    """What the models of a worker agree on. They claim one after another, each in its `turn`, so that an empty worker
    is still empty when the answer comes."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self._held: set[AttemptKey] = set()  # until the engine reports that nothing of them is left
        self._candidate: AttemptKey | None = None  # the poison candidate in the engine
        self._emptying: str | None = None  # the model with a poison candidate for which the worker becomes empty
        self._open = asyncio.Event()
        self._open.set()

    @property
    def empty(self) -> bool:
        """Whether no job is in any engine."""
        return not self._held

    @property
    def holds_one(self) -> bool:
        """Whether a single job is in the engines, or was during their last step."""
        return len(self._held) == 1

    def may_claim(self, model: str) -> bool:
        """Not beside a poison candidate, and not while another model waits for the worker to become empty."""
        return self._candidate is None and self._emptying in (None, model)

    async def opened(self) -> None:
        """Waits until every model may claim."""
        await self._open.wait()

    def answered(self, model: str, claims: Claims) -> None:
        self._emptying = model if claims.become_empty else None
        self._update_open()

    def hold(self, job: AttemptKey, *, alone: bool) -> None:
        self._held.add(job)
        if alone:
            self._candidate = job
        self._update_open()

    def leave(self, job: AttemptKey) -> None:
        self._held.discard(job)
        if self._candidate == job:
            self._candidate = None
        self._update_open()

    def forget(self, model: str, jobs: Iterable[AttemptKey]) -> None:
        """The model's engine is gone, and with it these jobs."""
        if self._emptying == model:
            self._emptying = None
        for job in tuple(jobs):
            self.leave(job)
        self._update_open()

    def _update_open(self) -> None:
        if self._candidate is None and self._emptying is None:
            self._open.set()
        else:
            self._open.clear()

"""How a lane asks the queue for jobs.

What the lanes of a worker agree on, so that a crash suspect is drawn with nothing beside it."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any

from redis.exceptions import ConnectionError, TimeoutError

from service.jobs import Claims, Queue
from service.jobs.messages import AttemptKey

log = logging.getLogger(__name__)

AWAY = (ConnectionError, TimeoutError, OSError)  # the answer may have been lost, and what was asked done
CLAIM_LIMIT = 32  # jobs a call
IDLE_WAIT = 1.0  # s: an idle lane also looks by itself, for leases that ended


class Claimer:
    """For one model of a worker."""

    def __init__(self, queue: Queue, model: str, worker: str, quarantine: Quarantine) -> None:
        # An idle worker is to be heard well within a lease: see hear in common.lua.
        self.idle_wait = min(IDLE_WAIT, queue.config.lease_seconds / 5)
        self._queue = queue
        self._model = model
        self._worker = worker
        self._quarantine = quarantine

    async def ask(self, stopping: asyncio.Future[Any], *, budget: int, alone: bool) -> Claims | None:
        """What the queue grants, asked until it answers: its first answer may have been lost, and be the jobs' only
        way here. None: the worker leaves. In the lane's turn."""
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
                )
            except AWAY as error:
                log.warning("claiming for %s: %s; trying again", self._model, error)
                await asyncio.wait({stopping}, timeout=self.idle_wait)
            else:
                self._quarantine.answered(self._model, claims)
                return claims
        return None

    async def bell(self) -> None:
        """Until there may be a job, or it is time to look."""
        await self._queue.wait([self._model], self.idle_wait)


class Quarantine:
    """Lanes claim one after another, each in its `turn`: whether the worker is empty stays true until the answer."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self._held: set[AttemptKey] = set()  # until their engine says that nothing of them is left
        self._suspect: AttemptKey | None = None
        self._emptying: str | None = None  # the model that has a suspect, for which the worker becomes empty
        self._open = asyncio.Event()
        self._open.set()

    @property
    def empty(self) -> bool:
        """Whether the worker holds nothing at all."""
        return not self._held

    @property
    def holds_one(self) -> bool:
        """Whether a single job is in its engines, or was when they took the last step."""
        return len(self._held) == 1

    def may_claim(self, model: str) -> bool:
        """Not beside a suspect, and not while another model waits for the worker to become empty."""
        return self._suspect is None and self._emptying in (None, model)

    async def opened(self) -> None:
        """Until every lane may claim."""
        await self._open.wait()

    def answered(self, model: str, claims: Claims) -> None:
        self._emptying = model if claims.become_empty else None
        self._show()

    def hold(self, job: AttemptKey, *, alone: bool) -> None:
        self._held.add(job)
        if alone:
            self._suspect = job
        self._show()

    def leave(self, job: AttemptKey) -> None:
        self._held.discard(job)
        if self._suspect == job:
            self._suspect = None
        self._show()

    def _show(self) -> None:
        if self._suspect is None and self._emptying is None:
            self._open.set()
        else:
            self._open.clear()

"""How a lane asks the queue for jobs."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any

from redis.exceptions import ConnectionError, TimeoutError

from service.queue import Claims, Queue
from service.worker.quarantine import Quarantine

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

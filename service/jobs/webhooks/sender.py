"""Calls the webhooks of jobs that have ended, again and again until they are delivered or given up.

The API does it, not the workers: jobs also end without a worker, and GPU machines need no way out to other hosts. Which
webhooks are due is in Redis, so any replica can call them, also after a restart. A webhook may be called more than
once; its `webhook-id` stays the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from prometheus_client import Counter
from redis.exceptions import RedisError

from service.jobs.connection import cancelled
from service.jobs.messages import Job, WebhookState
from service.jobs.queue import Queue
from service.jobs.webhooks.caller import CALL_SECONDS, CallFailed, WebhookCaller
from service.jobs.webhooks.queue import WebhookCall, WebhookQueue
from service.jobs.webhooks.signature import webhook_headers
from service.logs import Outage

log = logging.getLogger(__name__)

CALLS = 16  # at once, of one replica
CLIENT_CALLS = 4  # of one client
HOLD_SECONDS = 3 * CALL_SECONDS
POLL_SECONDS = 0.5
PAUSES = (5.0, 30.0, 120.0, 300.0, 600.0, 900.0, 1200.0)
"""Seconds between two tries, give or take a fifth: eight tries in 53 minutes."""


class WebhookSender:
    """Calls what is due until it is closed. secret_of: the secret of a client's webhooks. body_of: what is told of a
    job, the same in each try."""

    def __init__(
        self,
        webhooks: WebhookQueue,
        queue: Queue,
        caller: WebhookCaller,
        outcomes: Counter,
        *,
        secret_of: Callable[[str], Awaitable[bytes]],
        body_of: Callable[[Job], bytes],
        pauses: Sequence[float] = PAUSES,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._webhooks = webhooks
        self._queue = queue
        self._caller = caller
        self._outcomes = outcomes
        self._secret_of = secret_of
        self._body_of = body_of
        self._pauses = pauses
        self._poll_seconds = poll_seconds
        self._under_way: dict[str, int] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="webhooks")

    async def close(self) -> None:
        """Calls under way are cut off; another replica, or this one after its restart, repeats them."""
        if self._task is not None:
            await cancelled(self._task)
        await cancelled(*self._calls)
        await self._caller.aclose()

    async def _run(self) -> None:
        outage = Outage(log)
        while True:
            self._wake.clear()
            try:
                await self._begin_what_is_due()
                outage.over("webhooks: redis answers")
            except (RedisError, OSError) as error:
                outage.failed("webhooks: %s; looking again", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._wake.wait()

    async def _begin_what_is_due(self) -> None:
        room = CALLS - len(self._calls)
        if room <= 0:
            return
        due, gone = await self._webhooks.claim(
            room, hold_seconds=HOLD_SECONDS, most=CLIENT_CALLS, under_way=self._under_way
        )
        if gone:
            log.warning("%d webhooks are given up: their jobs expired before they were delivered", gone)
            self._outcomes.labels("failed").inc(gone)
        for call in due:
            self._under_way[call.client] = self._under_way.get(call.client, 0) + 1
            task = asyncio.create_task(self._deliver(call), name=f"webhook of {call.job_id}")
            self._calls.add(task)
            task.add_done_callback(partial(self._ended, call.client))

    def _ended(self, client: str, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._under_way[client] -= 1
        if not self._under_way[client]:
            del self._under_way[client]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a webhook was left: it is due again soon", exc_info=error)

    async def _deliver(self, call: WebhookCall) -> None:
        job = await self._queue.job(call.job_id)
        if job is None:  # it expired a moment ago
            await self._webhooks.settle(call, "failed")
            self._outcomes.labels("failed").inc()
            return
        body = self._body_of(job)
        headers = {"Content-Type": "application/json", "User-Agent": "arpg-webhooks"}
        secret = await self._secret_of(call.client)
        headers |= webhook_headers(secret, f"msg_{call.job_id}", int(time.time()), body)
        try:
            await self._caller.call(call.url, headers, body)
        except CallFailed as error:
            await self._failed(call, error)
        else:
            await self._webhooks.settle(call, "delivered")
            self._outcomes.labels("delivered").inc()

    async def _failed(self, call: WebhookCall, error: CallFailed) -> None:
        again = call.tries <= len(self._pauses) and not error.final
        pause = self._pauses[call.tries - 1] * random.uniform(0.8, 1.2) if again else 0.0
        wanted: WebhookState = "pending" if again else "failed"
        state = await self._webhooks.settle(call, wanted, wait_seconds=pause, error=str(error))
        log.warning("the webhook of job %s, try %d: %s: %s", call.job_id, call.tries, error, state)
        if state in ("pending", "failed"):
            self._outcomes.labels("retried" if state == "pending" else "failed").inc()

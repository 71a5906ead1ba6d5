"""Publishes the events of all jobs of a worker, in one call for each step.

When Redis stalls, the engine continues. Events that wait are merged: for each picture at most one `tokens` and one
`preview` wait, however long the stall lasts. An event's JSON is made when it is sent, and repeats send the same bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.jobs import Publication, Queue
from service.jobs.messages import AttemptKey, PublishStatus, encode_event
from service.worker.events import TokensEvent
from service.worker.retry import retry_transient
from service.worker.threads.report_box import PACE_SECONDS


@dataclass(slots=True)
class Outbox:
    """One job's events that have not been sent."""

    sequence: int = 0
    sent_at: float = field(default_factory=time.monotonic)
    started: dict[str, Any] | None = None
    tokens: dict[int, TokensEvent] = field(default_factory=dict)  # by the picture's index
    previews: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add_tokens(self, event: TokensEvent) -> None:
        waiting = self.tokens.setdefault(event.image_index, event)
        if waiting is not event:
            waiting.merge(event)

    def take(self) -> list[tuple[str, bytes]]:
        """Name and JSON of each event that waits."""
        taken = [] if self.started is None else [("started", encode_event(self.started))]
        taken += [("tokens", encode_event(event.data())) for event in self.tokens.values()]
        taken += [("preview", encode_event(data)) for data in self.previews.values()]
        self.started, self.tokens, self.previews = None, {}, {}
        return taken

    def next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence


class Publisher:
    """answered: called with the queue's answer for each job; the worker acts on `lost` and `cancel`. may_beat: whether
    to renew the leases of jobs without events: a hung engine must lose its jobs."""

    def __init__(
        self,
        queue: Queue,
        answered: Callable[[AttemptKey, PublishStatus], None],
        may_beat: Callable[[], bool],
    ) -> None:
        self._queue = queue
        self._answered = answered
        self._may_beat = may_beat
        self._beat = queue.config.lease_seconds / 5
        self._jobs: dict[AttemptKey, Outbox] = {}
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()  # a job waits for its events to arrive, so that it can end
        self._sent_at = 0.0
        self._sent = asyncio.Condition()
        self._in_flight: list[Publication] = []

    def register(self, job: AttemptKey) -> None:
        """From now on the job's lease is renewed."""
        self._jobs[job] = Outbox()

    def unregister(self, job: AttemptKey) -> None:
        """Drops the job's events, those that wait and those that still come."""
        self._jobs.pop(job, None)

    def started(self, job: AttemptKey, data: dict[str, Any]) -> None:
        if outbox := self._jobs.get(job):
            outbox.started = data
            self._wake.set()

    def tokens(self, job: AttemptKey, event: TokensEvent) -> None:
        if outbox := self._jobs.get(job):
            outbox.add_tokens(event)
            self._wake.set()

    def preview(self, job: AttemptKey, data: dict[str, Any]) -> None:
        if outbox := self._jobs.get(job):
            outbox.previews[data["image_index"]] = data
            self._wake.set()

    async def last_sequence(self, job: AttemptKey) -> int:
        """The sequence for the job's terminal event, once all its events have arrived."""
        if self._waiting(job):
            self._hurry.set()
            async with self._sent:
                await self._sent.wait_for(lambda: not self._waiting(job))
        outbox = self._jobs.get(job)
        return 0 if outbox is None else outbox.next_sequence()

    def _waiting(self, job: AttemptKey) -> bool:
        outbox = self._jobs.get(job)
        unsent = outbox is not None and (outbox.started or outbox.tokens or outbox.previews)
        return bool(unsent) or any((p.job_id, p.attempt) == job for p in self._in_flight)

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._beat):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await self._pace()
            self._wake.clear()
            self._in_flight = self._collect()
            if self._in_flight:
                await self._send(self._in_flight)

    async def _pace(self) -> None:
        """Events of several steps are merged into one, which costs every reader less: see PACE_SECONDS."""
        pause = self._sent_at + PACE_SECONDS - time.monotonic()
        if pause > 0 and not self._hurry.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
        self._hurry.clear()
        self._sent_at = time.monotonic()

    def _collect(self) -> list[Publication]:
        now = time.monotonic()
        batch: list[Publication] = []
        for (job_id, attempt), outbox in self._jobs.items():
            taken: list[tuple[str | None, bytes]] = [*outbox.take()]
            if not taken and now - outbox.sent_at >= self._beat * 0.9 and self._may_beat():
                taken = [(None, b"")]  # a heartbeat
            for event, data in taken:
                sequence = 0 if event is None else outbox.next_sequence()
                batch.append(Publication(job_id=job_id, attempt=attempt, sequence=sequence, event=event, data=data))
                outbox.sent_at = now
        return batch

    async def _send(self, batch: list[Publication]) -> None:
        """Repeats the call until it succeeds: the events keep their ids, so Redis ignores a repeat."""
        answers = await retry_transient(f"publishing {len(batch)} events", lambda: self._queue.publish(batch))
        async with self._sent:
            self._in_flight = []
            self._sent.notify_all()
        for attempt, answer in answers.items():
            self._answered(attempt, answer)

"""What the worker says, in one call a step for all its jobs.

When Redis stalls the engine goes on: what waits is merged, so a job never holds more than one event of tokens and
one preview per picture, however long it lasts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.jobs import Publication, Queue
from service.jobs.messages import AttemptKey, PublishStatus, encode_event
from service.worker.events import TokensEvent
from service.worker.retry import retry_transient


@dataclass(slots=True)
class Outbox:
    """What one job has to say and has not said."""

    sequence: int = 0
    spoke_at: float = field(default_factory=time.monotonic)
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
    """`answered` hears what the queue says about each job: lost and cancel are for the worker to act on.

    `may_beat`: whether to renew leases of jobs that have nothing to say; a hung engine must lose its jobs.
    """

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
        self._said = asyncio.Condition()
        self._in_flight: list[Publication] = []

    def register(self, job: AttemptKey) -> None:
        """From here on the job's lease is renewed."""
        self._jobs[job] = Outbox()

    def unregister(self, job: AttemptKey) -> None:
        """Nothing more is said for it, and what it still says is ignored."""
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
        """Waits until all that the job said has arrived; the sequence for its terminal event."""
        async with self._said:
            await self._said.wait_for(lambda: not self._waiting(job))
        outbox = self._jobs.get(job)
        return 0 if outbox is None else outbox.next_sequence()

    def _waiting(self, job: AttemptKey) -> bool:
        outbox = self._jobs.get(job)
        unsaid = outbox is not None and (outbox.started or outbox.tokens or outbox.previews)
        return bool(unsaid) or any((p.job_id, p.attempt) == job for p in self._in_flight)

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._beat):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            self._in_flight = self._collect()
            if self._in_flight:
                await self._send(self._in_flight)

    def _collect(self) -> list[Publication]:
        now = time.monotonic()
        batch: list[Publication] = []
        for (job_id, attempt), outbox in self._jobs.items():
            taken: list[tuple[str | None, bytes]] = [*outbox.take()]
            if not taken and now - outbox.spoke_at >= self._beat * 0.9 and self._may_beat():
                taken = [(None, b"")]  # a heartbeat
            for event, data in taken:
                sequence = 0 if event is None else outbox.next_sequence()
                batch.append(Publication(job_id=job_id, attempt=attempt, sequence=sequence, event=event, data=data))
                outbox.spoke_at = now
        return batch

    async def _send(self, batch: list[Publication]) -> None:
        """Until it has arrived: the same events with the same ids, so a repeat is harmless."""
        answers = await retry_transient(f"publishing {len(batch)} events", lambda: self._queue.publish(batch))
        async with self._said:
            self._in_flight = []
            self._said.notify_all()
        for attempt, answer in answers.items():
            self._answered(attempt, answer)

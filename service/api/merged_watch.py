"""The events of several jobs as one: a page with many jobs then needs one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from service.jobs import Event, Gone, HubClosed, WatchEnded, cancelled
from service.jobs.watch import Watch

HELD = 64
"""Batches that wait for a slow client. Beyond that the watches wait too, and end with Lagged when their own buffers are
full."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """event: of the job, or the reason why its events end early."""

    job_id: str
    event: Event | WatchEnded


class MergedWatch:
    """Of each job, every event in order. finished: each job's last event, or the reason why it ends early, has been
    returned. gone: jobs that can't be followed, and why."""

    def __init__(self, watches: Mapping[str, Watch], gone: Mapping[str, Gone]) -> None:
        self._watches = watches
        self._batches: asyncio.Queue[list[JobEvent]] = asyncio.Queue(HELD)
        if gone:
            self._batches.put_nowait([JobEvent(id, why) for id, why in gone.items()])
        self._failure: Exception | None = None
        self._reading = len(watches)
        self._tasks = [asyncio.create_task(self._read(*job), name=f"events of {job[0]}") for job in watches.items()]

    @property
    def finished(self) -> bool:
        return self._reading == 0 and self._batches.empty() and self._failure is None

    async def next(
        self, seconds: float | None = None, push: Callable[[list[JobEvent]], bool] | None = None
    ) -> list[JobEvent]:
        """Events; none after so many seconds, and when a job's events are over. push: not used, since the jobs' events
        come from several tasks.

        Raises HubClosed when this replica shuts down, and any error of reading."""
        try:
            async with asyncio.timeout(seconds):
                events = await self._batches.get()
        except TimeoutError:
            return []
        while not self._batches.empty():
            events = events + self._batches.get_nowait()
        if not events and self._failure is not None:
            raise self._failure
        return events

    async def close(self) -> None:
        await cancelled(*self._tasks)
        for watch in self._watches.values():
            await watch.close()

    async def _read(self, id: str, watch: Watch) -> None:
        try:
            while not watch.finished:
                if events := [JobEvent(id, event) for event in await watch.next()]:
                    await self._batches.put(events)
        except HubClosed as closed:
            self._failure = closed
        except WatchEnded as ended:
            await self._batches.put([JobEvent(id, ended)])
        except Exception as error:
            self._failure = error
        self._reading -= 1
        await self._batches.put([])

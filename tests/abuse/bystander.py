"""The other client: what it sees while an attack runs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.abuse.web import Answer, Site, form

PULSE_SECONDS, PICTURE_SECONDS, UPLOAD_SECONDS = 0.1, 1.0, 3.0
STEPS = 8


@dataclass(slots=True)
class Seen:
    """Seconds of each request, and how many of each had which outcome."""

    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, seconds: float, answer: Answer) -> None:
        self.seconds.append(seconds)
        self.outcomes[answer.outcome] += 1

    @property
    def refused(self) -> int:
        return self.outcomes.total() - self.outcomes["200"]

    def quantile(self, share: float) -> float:
        """0 if there is none."""
        ordered = sorted(self.seconds)
        return ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0.0


class Bystander:
    """Asks for /healthz ten times a second, for a picture of 8 steps every second, and for a variation of an upload
    as WebP every three seconds. Each request begins when it is due, however late the ones before it are."""

    def __init__(self, site: Site, upload: bytes) -> None:
        self.health, self.pictures, self.uploads = Seen(), Seen(), Seen()
        self._site = site
        self._headers, self._upload = form([("image", upload), ("steps", str(STEPS).encode()), ("keep", b"0.5")])
        self._seeds = itertools.count(1)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then waits for the answers that are due."""
        pulses = self._repeat(stop, PULSE_SECONDS, self.health, self.pulse)
        pictures = self._repeat(stop, PICTURE_SECONDS, self.pictures, self.picture)
        await asyncio.gather(pulses, pictures, self._repeat(stop, UPLOAD_SECONDS, self.uploads, self.upload))

    async def pulse(self) -> Answer:
        return await self._site.ask("GET", "/healthz")

    async def picture(self) -> Answer:
        fields = {"seed": next(self._seeds), "steps": STEPS}
        return await self._site.post("/v1/generate", fields, accept="image/png")

    async def upload(self) -> Answer:
        headers = self._headers | {"Accept": "image/webp"}
        return await self._site.ask("POST", "/v1/vary", body=self._upload, headers=headers)

    async def _repeat(
        self, stop: asyncio.Event, every: float, seen: Seen, request: Callable[[], Awaitable[Answer]]
    ) -> None:
        async def once() -> None:
            began = time.monotonic()
            answer = await request()
            seen.add(time.monotonic() - began, answer)

        waiting: list[asyncio.Task[None]] = []
        due = time.monotonic()
        while not stop.is_set():
            waiting.append(asyncio.ensure_future(once()))
            due = max(due + every, time.monotonic() - every)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), max(0.0, due - time.monotonic()))
        await asyncio.gather(*waiting)

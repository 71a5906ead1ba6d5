"""How long an unfinished job will take, as far as its own steps or the last jobs of its line tell."""

from __future__ import annotations

import json
from dataclasses import dataclass

Fields = dict[str, str]
"""Of a job, as Redis holds them."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an unfinished job is, and how fast its line moves. Times in ms; None: unknown.

    ready: jobs ahead of it in the ready set. candidates: the same among the poison candidates. gap: between two jobs
    that are claimed while others wait. run: from a claim to the end, for each unit of effort. heard: since a worker
    last claimed. now: on the server's clock.
    """

    ready: int | None
    candidates: int | None
    gap: float | None
    run: float | None
    heard: float | None
    now: float

    @property
    def position(self) -> int | None:
        return self.ready if self.ready is not None else self.candidates

    def eta_seconds(self, job: Fields, lease_ms: int) -> float | None:
        """Until the job ends, as far as its own steps tell, or else the last jobs of its line. None: unknown, or later
        than they tell."""
        if self.heard is None or self.heard > lease_ms:
            return None  # no worker claims
        left = drawing_left(job, self.now) if job["state"] == "running" else None
        if left is None and self.run is not None and "effort" in job:
            left = self.run * int(job["effort"])
            if job["state"] == "running":
                left -= self.now - int(job["started_at"])
            elif self.ready is None or self.gap is None:
                return None
            else:
                left += self.gap * (self.ready + 1)
        return left / 1000 if left is not None and left >= 0 else None


def drawing_left(job: Fields, now: float) -> float | None:
    """Milliseconds until the last token of a running job, if each picture goes on as fast as until now. None: a picture
    has not drawn two steps yet."""
    left: list[float] = []
    for name, value in job.items():
        if name.startswith("progress:"):
            attempt, first, first_at, step, at, steps = map(int, value.split())
            if attempt == int(job["attempt"]) and (step > first or step == steps):
                pace = (at - first_at) / max(1, step - first)
                left.append(pace * (steps - step) - (now - at))
    pictures = json.loads(job.get("about", "{}")).get("n", 1)
    return max(left) if len(left) >= pictures else None

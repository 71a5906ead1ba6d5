"""What clients request and how they behave: all derived from the seed."""

from __future__ import annotations

import base64
import io
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from tests.chaos.engine import EXITS, GRID, HARMLESS, RAISES, RUNS_OUT, STRIDE
from tests.chaos.history import Asked

ENDS = {
    EXITS: frozenset({"worker_lost"}),
    RAISES: frozenset({"engine_failed", "worker_lost"}),
    RUNS_OUT: frozenset({"out_of_memory", "worker_lost"}),
}
"""Error codes of poison jobs. A fault may kill the worker first, so each may also end as `worker_lost`."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One reader of one job. hops: numbers of events after which it reconnects to another replica; then it stays."""

    delay: float
    hops: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One client's request.

    at: seconds after the start. together: how many copies are sent at once. cancel_after: seconds after acceptance, or
    with cancel_drawn after the job left the queue. by_post: one more reader follows the response to a POST.
    start_seconds: its start deadline. webhook: whether it has one.
    """

    key: str
    client: str
    path: str
    body: dict[str, Any]
    at: float
    together: int
    cancel_after: float | None
    cancel_drawn: bool
    by_post: bool
    readings: tuple[Reading, ...]
    poison: str | None = None
    start_seconds: float | None = None
    webhook: bool = False
    asked: Asked = field(init=False)

    def __post_init__(self) -> None:
        ends = None if self.poison is None else ENDS[self.poison]
        deadline = self.start_seconds is not None
        asked = Asked(self.key, self.body["n"], ends, self.client, deadline, self.webhook)
        object.__setattr__(self, "asked", asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    jobs: int
    seconds: float  # in which all jobs arrive
    models: tuple[str, ...]
    poisons: tuple[str, ...] = ()
    classes: tuple[str, ...] = HARMLESS
    clients: tuple[str, ...] = ("ada", "ben", "cleo")
    uploads: float = 0.1  # share of inpaintings
    cancels: float = 0.12
    deadlines: float = 0.15
    webhooks: float = 0.2
    steps: tuple[int, ...] = (8, 12, 16, 24)


def jobs_of(seed: int, load: Workload) -> list[Job]:
    chance = random.Random(f"jobs {seed}")
    poisoned = dict(zip(chance.sample(range(load.jobs // 8, load.jobs), len(load.poisons)), load.poisons, strict=True))
    return [job_of(chance, f"{seed}-{index}", load, poisoned.get(index)) for index in range(load.jobs)]


def job_of(chance: random.Random, key: str, load: Workload, poison: str | None) -> Job:
    body: dict[str, Any] = {
        "model": chance.choice(load.models),
        "class": poison or chance.choice(load.classes),
        "n": chance.choice((1, 1, 1, 2, 4)),
        "seed": chance.randrange(2**32),
        "steps": chance.choice(load.steps),
        "guidance_scale": chance.choice((1.0, 3.0)),
        "previews": chance.choice((0, 0, 5)),
    }
    path = "/v1/generate"
    if poison is None and chance.random() < load.uploads:
        path = "/v1/inpaint"
        body |= {"image": picture(chance), "mask": mask(chance)}
    cancelled, drawn = poison is None and chance.random() < load.cancels, chance.random() < 0.5
    if cancelled and drawn:
        body |= {"n": 4, "steps": max(load.steps)}  # long enough to be running when the cancel arrives
    return Job(
        key=key,
        client=chance.choice(load.clients),
        path=path,
        body=body,
        at=chance.uniform(0, load.seconds),
        together=3 if chance.random() < 0.2 else 1,
        cancel_after=chance.uniform(0, 0.02 if drawn else 0.8) if cancelled else None,
        cancel_drawn=drawn,
        by_post=chance.random() < 0.2,
        readings=tuple(reading(chance) for _ in range(chance.choice((0, 1, 1, 2)))),
        poison=poison,
        start_seconds=chance.uniform(0.05, 2) if poison is None and chance.random() < load.deadlines else None,
        webhook=chance.random() < load.webhooks,
    )


def reading(chance: random.Random) -> Reading:
    return Reading(chance.uniform(0, 1), tuple(chance.randint(1, 9) for _ in range(chance.choice((0, 1, 2, 4)))))


def picture(chance: random.Random) -> str:
    return png(np.frombuffer(chance.randbytes(pixels() * 3), dtype=np.uint8), 3)


def mask(chance: random.Random) -> str:
    """Selects the left or the right half."""
    shown = np.zeros((GRID[0] * STRIDE, GRID[1] * STRIDE), dtype=np.uint8)
    half = shown.shape[1] // 2
    shown[:, :half] = chance.choice((0, 255))
    shown[:, half:] = 255 - shown[0, 0]
    return png(shown.ravel(), 1)


def pixels() -> int:
    return GRID[0] * GRID[1] * STRIDE**2


def png(flat: np.ndarray, channels: int) -> str:
    shape = (GRID[0] * STRIDE, GRID[1] * STRIDE, 3) if channels == 3 else (GRID[0] * STRIDE, GRID[1] * STRIDE)
    file = io.BytesIO()
    Image.fromarray(flat.reshape(shape)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()

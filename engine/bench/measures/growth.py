"""How speed grows with the number of requests, their steps and their grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.bench.pairs import seconds
from engine.bench.spread import Spread
from engine.bench.workload import equal
from engine.core.engine import Engine

HEADER = (
    "| requests | steps | grid | images/s (spread) | tokens/s | ms a step (spread) | rows a step |\n"
    "|---|---|---|---|---|---|---|"
)

Settings = tuple[int, int, tuple[int, int]]
"""Requests, steps, grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Requests of equal settings that begin together. seconds: of each round, in which the engine took `engine_steps`
    steps: more than `steps` where the row budget left requests out of some. step_rows: the mean."""

    concurrency: int
    steps: int
    grid: tuple[int, int]
    seconds: tuple[float, ...]
    engine_steps: float
    step_rows: float

    @property
    def images_per_second(self) -> Spread:
        return Spread.of(self.concurrency / taken for taken in self.seconds)

    @property
    def step_milliseconds(self) -> Spread:
        return Spread.of(1000 * taken / self.engine_steps for taken in self.seconds)

    @property
    def tokens_per_second(self) -> float:
        rows, cols = self.grid
        return self.images_per_second.median * rows * cols

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "images_per_second": self.images_per_second.to_json(),
            "tokens_per_second": self.tokens_per_second,
            "step_milliseconds": self.step_milliseconds.to_json(),
        }

    def __str__(self) -> str:
        return (
            f"| {self.concurrency} | {self.steps} | {self.grid[0]}x{self.grid[1]} | {self.images_per_second} | "
            f"{self.tokens_per_second:.0f} | {self.step_milliseconds} | {self.step_rows:.0f} |"
        )


def cross(
    centre: Settings, concurrency: Sequence[int], steps: Sequence[int], grids: Sequence[tuple[int, int]]
) -> list[Settings]:
    """The settings to measure: one of the three varies, and the two others stay at the centre."""
    points = [
        *((count, centre[1], centre[2]) for count in concurrency),
        *((centre[0], count, centre[2]) for count in steps),
        *((centre[0], centre[1], grid) for grid in grids),
    ]
    return list(dict.fromkeys(points))


def measure(engine: Engine, settings: Settings, rounds: int) -> Point:
    """Draws the requests once to warm up, then `rounds` times."""
    concurrency, steps, grid = settings
    requests = equal(engine.model, concurrency, steps, grid)
    engine.generate(requests)
    before = engine.stats()
    taken = tuple(seconds(lambda: engine.generate(requests)) for _ in range(rounds))
    after = engine.stats()
    engine_steps = (after.steps_total - before.steps_total) / rounds
    return Point(
        concurrency=concurrency,
        steps=steps,
        grid=grid,
        seconds=taken,
        engine_steps=engine_steps,
        step_rows=(after.rows_total - before.rows_total) / rounds / engine_steps,
    )

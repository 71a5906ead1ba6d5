"""How speed grows with the number of requests, their steps and their grid."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from engine.bench.pairs import seconds
from engine.bench.workload import equal
from engine.core.engine import Engine

HEADER = "| requests | steps | grid | images/s | tokens/s | ms a step | rows a step |\n|---|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Medians over the rounds, for requests of equal settings that begin together."""

    concurrency: int
    steps: int
    grid: tuple[int, int]
    images_per_second: float
    tokens_per_second: float
    step_milliseconds: float
    step_rows: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        rows, cols = self.grid
        return (
            f"| {self.concurrency} | {self.steps} | {rows}x{cols} | {self.images_per_second:.2f} | "
            f"{self.tokens_per_second:.0f} | {self.step_milliseconds:.2f} | {self.step_rows:.0f} |"
        )


def measure(engine: Engine, concurrency: int, steps: int, grid: tuple[int, int], rounds: int) -> Point:
    requests = equal(engine.model, concurrency, steps, grid)
    engine.generate(requests)
    before = engine.stats()
    median = statistics.median(seconds(lambda: engine.generate(requests)) for _ in range(rounds))
    after = engine.stats()
    taken = (after.steps_total - before.steps_total) / rounds
    return Point(
        concurrency=concurrency,
        steps=steps,
        grid=grid,
        images_per_second=concurrency / median,
        tokens_per_second=concurrency * grid[0] * grid[1] / median,
        step_milliseconds=1000 * median / taken,
        step_rows=(after.rows_total - before.rows_total) / rounds / taken,
    )

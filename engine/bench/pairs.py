"""Two ways to do the same work, in turn in one process: absolute times say little on a shared machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.bench.spread import Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Seconds of each round for the same number of images. A round is a pair of runs."""

    name: str
    images: int
    baseline: tuple[float, ...]
    engine: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """How many times faster the engine is, in each pair."""
        return [baseline / engine for baseline, engine in zip(self.baseline, self.engine, strict=True)]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "images": self.images,
            "pairs": len(self.ratios),
            "baseline_images_per_second": self._rate(self.baseline),
            "engine_images_per_second": self._rate(self.engine),
            "ratio": Spread.of(self.ratios).to_json(),
            "baseline_seconds": self.baseline,
            "engine_seconds": self.engine,
        }

    def __str__(self) -> str:
        rates = f"{self._rate(self.baseline):.2f} | {self._rate(self.engine):.2f}"
        return f"| {self.name} | {rates} | {Spread.of(self.ratios)} |"

    def _rate(self, taken: tuple[float, ...]) -> float:
        """Images per second, the median."""
        return self.images / Spread.of(taken).median


HEADER = "| | baseline, images/s | engine, images/s | ratio (spread) |\n|---|---|---|---|"


def compare(
    name: str, images: int, baseline: Callable[[], object], engine: Callable[[], object], rounds: int
) -> Comparison:
    """Run both once to warm up, then in turn; every other pair begins with the engine."""
    baseline()
    engine()
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(rounds):
        for which in (0, 1) if index % 2 == 0 else (1, 0):
            times[which].append(seconds((baseline, engine)[which]))
    return Comparison(name=name, images=images, baseline=tuple(times[0]), engine=tuple(times[1]))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

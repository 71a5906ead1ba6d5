"""Two ways to do the same work, in turn in one process: absolute times say little on a shared machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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
            "baseline_images_per_second": self.images / statistics.median(self.baseline),
            "engine_images_per_second": self.images / statistics.median(self.engine),
            "ratio": statistics.median(self.ratios),
            "ratio_low": min(self.ratios),
            "ratio_high": max(self.ratios),
            "baseline_seconds": self.baseline,
            "engine_seconds": self.engine,
        }

    def __str__(self) -> str:
        data = self.to_json()
        return (
            f"| {self.name} | {data['baseline_images_per_second']:.2f} | {data['engine_images_per_second']:.2f} | "
            f"**{data['ratio']:.2f}** ({data['ratio_low']:.2f}–{data['ratio_high']:.2f}) |"
        )


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

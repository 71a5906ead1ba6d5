"""The engine against the static-batch loop: batches that are all there at once, and arrivals in an open loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from engine.bench.open_loop import BatchDrawer, EngineDrawer, sustained_rate
from engine.bench.pairs import Comparison, compare, seconds
from engine.bench.spread import Spread
from engine.bench.static_batch.loop import StaticBatchLoop, grouped
from engine.bench.static_batch.waiting_time import tuned_wait
from engine.bench.workload import equal, mix, mix_of, percentile, poisson
from engine.core.engine import Engine
from engine.request import Request

MIXED_SETTINGS = 24
LATENCY_FACTOR = 3
"""Under load a request may take this many times as long as one that is drawn alone, at the 95th percentile."""
ALONE = 24


def batches(
    engine: Engine, baseline: StaticBatchLoop, sizes: Sequence[tuple[int, int]], mixed: int, rounds: int
) -> Iterator[Comparison]:
    """Equal requests of each (images, steps); then a mix. Raises AssertionError when the tokens differ."""
    workloads = [(f"{images} equal, {steps} steps", equal(engine.model, images, steps)) for images, steps in sizes]
    if mixed:
        requests = mix_of(engine.model, mixed, min(mixed, MIXED_SETTINGS))
        workloads.append((f"{mixed} mixed in {len(grouped(requests))} settings", requests))
    for name, requests in workloads:
        yield compare(
            name, len(requests), partial(baseline.generate, requests), partial(engine.generate, requests), rounds
        )


def differing_tokens(engine: Engine, baseline: StaticBatchLoop, requests: Sequence[Request]) -> int:
    """How many tokens of these requests the two draw differently; 0 but for float rounding."""
    pairs = zip(engine.generate(requests), baseline.generate(requests), strict=True)
    return sum(int((ours != theirs).sum()) for ours, theirs in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """Sustained images per second of each round; a round has its own requests and arrival times. limit: the latency
    allowed at the 95th percentile; wait: the baseline's tuned waiting time; both in seconds."""

    requests: int
    limit: float
    wait: float
    baseline: tuple[float, ...]
    engine: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        return [engine / baseline for baseline, engine in zip(self.baseline, self.engine, strict=True)]

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "latency_limit_seconds": self.limit,
            "baseline_wait_seconds": self.wait,
            "baseline_images_per_second": self.baseline,
            "engine_images_per_second": self.engine,
            "ratio": Spread.of(self.ratios).to_json(),
        }

    def __str__(self) -> str:
        rates = f"{Spread.of(self.baseline).median:.2f} | {Spread.of(self.engine).median:.2f}"
        return f"| Poisson arrivals, p95 ≤ {self.limit:.2f} s | {rates} | {Spread.of(self.ratios)} |"


def arrivals(engine: Engine, baseline: StaticBatchLoop, count: int, rounds: int, seed: int = 0) -> Arrivals:
    """The rate of Poisson arrivals of the mix that each sustains. Both have the same limit: LATENCY_FACTOR times the
    baseline's 95th percentile of requests drawn alone."""
    alone = mix(engine.model, min(count, ALONE), seed)
    limit = LATENCY_FACTOR * percentile([seconds(partial(baseline.draw_batch, [request])) for request in alone], 0.95)
    wait, guess = tuned_wait(baseline, mix(engine.model, count, seed), poisson(count, seed), limit)
    rates: list[tuple[float, float]] = []
    guesses = guess, 2 * guess
    for index in range(rounds):
        requests, moments = mix(engine.model, count, seed + index), poisson(count, seed + index)
        slow = sustained_rate(lambda: BatchDrawer(baseline, wait), requests, moments, limit, guesses[0])
        fast = sustained_rate(lambda: EngineDrawer(engine), requests, moments, limit, guesses[1])
        rates.append((slow, fast))
        guesses = slow or guess, fast or guess
    return Arrivals(
        requests=count,
        limit=limit,
        wait=wait,
        baseline=tuple(slow for slow, _ in rates),
        engine=tuple(fast for _, fast in rates),
    )

"""How long the baseline's batches wait for more requests of their settings: tuned on a model of its speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from engine.bench.open_loop import BatchDrawer, sustained_rate
from engine.bench.pairs import seconds
from engine.bench.static_batch.loop import StaticBatchLoop
from engine.request import Request

MEASURED = (1, 8)
"""Batches whose time gives the model."""
SHARES = (0.0, 0.0625, 0.125, 0.25, 0.5)
"""Waiting times to try, as shares of the limit."""


@dataclass(frozen=True, slots=True)
class BatchCost:
    """Seconds of a step: fixed, and for each request of the batch."""

    fixed: float
    each: float

    @classmethod
    def measure(cls, loop: StaticBatchLoop, request: Request) -> BatchCost:
        few, many = (
            min(seconds(partial(loop.draw_batch, [request] * size)) for _ in range(3)) / request.steps
            for size in MEASURED
        )
        each = max(0.0, many - few) / (MEASURED[1] - MEASURED[0])
        return cls(few - each * MEASURED[0], each)

    def __call__(self, batch: Sequence[Request]) -> float:
        return batch[0].steps * (self.fixed + self.each * len(batch))


def tuned_wait(
    loop: StaticBatchLoop, requests: Sequence[Request], arrivals: Sequence[float], limit: float
) -> tuple[float, float]:
    """The waiting time, in seconds, with which the modelled loop sustains the highest rate; and that rate."""
    cost = BatchCost.measure(loop, requests[0])
    guess = 1 / cost(requests[:1])

    def rate(wait: float) -> float:
        return sustained_rate(lambda: BatchDrawer(loop, wait, cost), requests, arrivals, limit, guess)

    best, wait = max((rate(share * limit), -share * limit) for share in SHARES)
    return -wait, best

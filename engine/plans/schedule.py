"""How many tokens each step draws, and how strongly it is guided."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate

from engine.request import GuidanceSchedule, Schedule

# Share of positions still unknown when a share x of the steps is done (ARPG, models/arpg.py).
REMAINING: dict[Schedule, Callable[[float], float]] = {
    "arccos": lambda x: math.acos(x) / (math.pi / 2),
    "cosine": lambda x: math.cos(math.pi / 2 * x),
}


def step_counts(unknown: int, steps: int, schedule: Schedule) -> tuple[int, ...]:
    """Tokens drawn by each step, as published; never an empty step (fewer steps when fewer are unknown)."""
    steps = min(steps, unknown)
    counts = []
    done = 0
    for step in range(1, steps):
        remaining = int(unknown * REMAINING[schedule](step / steps))
        # Leave at least one position to every later step.
        remaining = max(steps - step, min(unknown - done - 1, remaining))
        counts.append(unknown - done - remaining)
        done = unknown - remaining
    return (*counts, unknown - done)


def guidance_scales(counts: tuple[int, ...], known: int, scale: float, schedule: GuidanceSchedule) -> tuple[float, ...]:
    """Guidance scale of each step. Linear: 1 + (scale - 1) · share of the grid that is filled after the step,
    known tokens counted."""
    if schedule == "constant":
        return (scale,) * len(counts)
    filled = accumulate(counts, initial=known)
    next(filled)
    total = known + sum(counts)
    return tuple(1 + (scale - 1) * done / total for done in filled)

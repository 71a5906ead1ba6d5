"""How many tokens each step of an ARPG draws."""

from __future__ import annotations

import math
from collections.abc import Callable

from engine.request import Schedule

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

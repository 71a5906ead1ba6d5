"""How many tokens each step of an ARPG draws."""

from __future__ import annotations

import math
from collections.abc import Callable

from engine.request import Schedule

# Share of positions left to draw when a share x of the steps is done (ARPG, models/arpg.py).
REMAINING: dict[Schedule, Callable[[float], float]] = {
    "arccos": lambda x: math.acos(x) / (math.pi / 2),
    "cosine": lambda x: math.cos(math.pi / 2 * x),
}


def step_counts(to_draw: int, steps: int, schedule: Schedule) -> tuple[int, ...]:
    """Tokens that each step draws, as published. No step is empty: with fewer positions than steps there are fewer
    steps."""
    steps = min(steps, to_draw)
    counts = []
    done = 0
    for step in range(1, steps):
        remaining = int(to_draw * REMAINING[schedule](step / steps))
        # Leave at least one position to every later step.
        remaining = max(steps - step, min(to_draw - done - 1, remaining))
        counts.append(to_draw - done - remaining)
        done = to_draw - remaining
    return (*counts, to_draw - done)

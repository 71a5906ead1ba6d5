"""How strongly each step is guided, and by which branches."""

from __future__ import annotations

from itertools import accumulate, pairwise

from engine.request import GuidanceSchedule, Request


def guidance_scales(
    counts: tuple[int, ...], known: int, scale: float, schedule: GuidanceSchedule, interval: int | None = None
) -> tuple[float, ...]:
    """Guidance scale of each step; 1 in the steps that begin with interval tokens drawn, or more. Linear:
    1 + (scale - 1) · share of the grid that is filled after the step, known tokens counted."""
    ends = tuple(accumulate(counts, initial=0))
    scales = []
    for drawn, filled in pairwise(ends):
        if interval is not None and drawn >= interval:
            scales.append(1.0)
        elif schedule == "constant":
            scales.append(scale)
        else:
            scales.append(1 + (scale - 1) * (known + filled) / (known + ends[-1]))
    return tuple(scales)


def conditions(request: Request, class_id: int, null_id: int) -> tuple[int, ...]:
    """Plan.conditions: two branches for a class that is guided, one for a class that is not, or for none."""
    if request.class_label is None:
        return (null_id,)
    if request.guidance_scale == 1 or request.guidance_interval == 0:
        return (class_id,)
    return (class_id, null_id)

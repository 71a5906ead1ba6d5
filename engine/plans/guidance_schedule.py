"""The guidance scale of each step, and the branches of a request."""

from __future__ import annotations

from itertools import accumulate, pairwise

from engine.plans.rows import Condition
from engine.request import GuidanceSchedule, Request


def guidance_scales(
    counts: tuple[int, ...], fixed: int, scale: float, schedule: GuidanceSchedule, interval: int | None = None
) -> tuple[float, ...]:
    """The guidance scale of each step; 1 for steps that begin with at least interval tokens drawn. linear:
    1 + (scale - 1) · the share of the grid that is filled after the step. counts: tokens of each step; fixed: fixed
    tokens that count as filled."""
    ends = tuple(accumulate(counts, initial=0))
    scales = []
    for drawn, filled in pairwise(ends):
        if interval is not None and drawn >= interval:
            scales.append(1.0)
        elif schedule == "constant":
            scales.append(scale)
        else:
            scales.append(1 + (scale - 1) * (fixed + filled) / (fixed + ends[-1]))
    return tuple(scales)


def conditions(request: Request, class_id: int, null_id: int) -> tuple[Condition, ...]:
    """Plan.conditions: two branches for a guided class; one for a class without guidance, or for no class."""
    if request.class_label is None:
        return (Condition(null_id),)
    return (Condition(class_id), Condition(null_id)) if is_guided(request) else (Condition(class_id),)


def is_guided(request: Request) -> bool:
    """Whether guidance applies to any step."""
    return request.guidance_scale != 1 and request.guidance_interval != 0

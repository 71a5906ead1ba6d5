"""expand: draw a class on a grid larger than the model was trained on."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from engine.card import ModelCard
from engine.editing.outpainting import LARGEST
from service.errors import Problem
from service.jobs.spec import JobSpec, Size
from service.tasks.fields import MAX_PIXELS, TaskFields
from service.tasks.generate import compose
from service.tasks.layout import Layout
from service.tasks.planning import job_spec, own_fields
from service.tasks.task import Task

Method = Literal["extrapolate", "interpolate", "ntk", "windowed"]

FAR = 2
"""A shape so many times as tall or as wide as the model's is drawn in windows, unless the request says otherwise."""


class ExpandRequest(TaskFields):
    """Draw a class on a grid larger than the model was trained on."""

    width: int = Field(ge=1, le=MAX_PIXELS, description="Width in pixels: whole tokens, at least the model's width")
    height: int = Field(
        ge=1,
        le=MAX_PIXELS,
        description="Height in pixels: whole tokens, at least the model's height; the picture has at most "
        f"{LARGEST} times the model's tokens",
    )
    method: Method | None = Field(
        None,
        description="How positions beyond the trained grid are encoded: as they are (extrapolate), squeezed into the "
        "grid (interpolate) or squeezed by frequency (ntk); windowed draws windows of the trained grid instead. "
        "Null: windowed where the shape is far from the model's, else interpolate",
    )


def plan(fields: ExpandRequest, facts: None, card: ModelCard) -> JobSpec:
    grid = _grid(fields, card)
    method = fields.method or _method(grid, card)
    layout = Layout(
        fixed_cells=np.zeros(grid, dtype=bool),
        size=(fields.height, fields.width),
        window_shape=card.grid if method == "windowed" else grid,
        rope_scaling=None if method == "windowed" else method,
    )
    return job_spec("expand", fields, card, layout, request=own_fields(fields) | {"method": method})


def _grid(fields: ExpandRequest, card: ModelCard) -> Size:
    sides = {"height": (fields.height, card.height), "width": (fields.width, card.width)}
    for name, (pixels, own) in sides.items():
        _check_side(name, pixels, own, card.stride)
    rows, cols = fields.height // card.stride, fields.width // card.stride
    most = LARGEST * card.positions
    if rows * cols > most:
        long, short = sorted(sides, key=lambda name: sides[name][0] / sides[name][1], reverse=True)
        fits = most // (sides[short][0] // card.stride) * card.stride
        remedy = f"with this {short} a {long} of {fits} pixels"
        if fits < sides[long][1]:
            remedy = f"such as {2 * card.width}×{2 * card.height} pixels (width × height)"
        raise Problem.field(long, f"{rows}×{cols} tokens are too many: {card.name} takes {most}, {remedy}", "too_large")
    return rows, cols


def _method(grid: Size, card: ModelCard) -> Method:
    """Interpolated positions draw one large thing well; in a shape far from the model's they stretch it."""
    taller, wider = grid[0] / card.grid[0], grid[1] / card.grid[1]
    return "windowed" if max(taller, wider) >= FAR * min(taller, wider) else "interpolate"


def _check_side(name: str, pixels: int, own: int, stride: int) -> None:
    if pixels % stride:
        below = pixels // stride * stride
        near = [str(side) for side in (below, below + stride) if side >= own] or [str(own)]
        say = f"must be whole tokens of {stride} pixels; the nearest {'are' if len(near) > 1 else 'is'}"
        raise Problem.field(name, f"{say} {' and '.join(near)}", "not_whole_tokens")
    if pixels < own:
        raise Problem.field(name, f"must be at least the model's own {own} pixels", "too_small")


TASK = Task(name="expand", fields=ExpandRequest, request=ExpandRequest, size_field="width", plan=plan, compose=compose)

"""What a request is drawn on: its grid, what of it is unknown, and how large the picture becomes.

Raises Problem with the field at fault.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.card import ModelCard
from engine.editing.masks import kept
from engine.editing.outpainting import LARGEST, SIDES, Padding, outpaint_geometry
from engine.request import RequestError, RopeScaling
from service.errors import Problem
from service.tasks.fields import ExpandRequest, Method, OutpaintFields, VaryFields

Size = tuple[int, int]

FAR = 2
"""A shape so many times as tall or as wide as the model's is drawn in windows, unless it is asked for otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """unknown: bool (rows, cols), what is drawn. size: height and width of the picture in pixels. windowed: drawn in
    windows of the model's grid, else at once. extension: how positions beyond that grid are told."""

    unknown: np.ndarray
    size: Size
    windowed: bool = False
    extension: RopeScaling | None = None

    @property
    def grid(self) -> tuple[int, int]:
        rows, cols = self.unknown.shape
        return rows, cols


def whole(card: ModelCard) -> Canvas:
    """The model's own grid, nothing known."""
    return Canvas(unknown=np.ones(card.grid, dtype=bool), size=(card.height, card.width))


def expanded(fields: ExpandRequest, card: ModelCard) -> Canvas:
    """A larger grid, nothing known."""
    sides = {"height": (fields.height, card.height), "width": (fields.width, card.width)}
    for name, (pixels, own) in sides.items():
        _check_side(name, pixels, own, card.stride)
    rows, cols = fields.height // card.stride, fields.width // card.stride
    most = LARGEST * card.positions
    if rows * cols > most:
        long, short = sorted(sides, key=lambda name: sides[name][0] / sides[name][1], reverse=True)
        fits = most // (sides[short][0] // card.stride) * card.stride
        raise Problem.field(
            long,
            f"{rows}×{cols} tokens are too many: {card.name} takes {most}, with this {short} a {long} of {fits} pixels",
            "too_large",
        )
    method = fields.method or _method((rows, cols), card)
    return Canvas(
        unknown=np.ones((rows, cols), dtype=bool),
        size=(fields.height, fields.width),
        windowed=method == "windowed",
        extension=None if method == "windowed" else method,
    )


def _method(grid: Size, card: ModelCard) -> Method:
    """Squeezed positions draw one large thing, well; in a shape far from the model's they stretch it."""
    taller, wider = grid[0] / card.grid[0], grid[1] / card.grid[1]
    return "windowed" if max(taller, wider) >= FAR * min(taller, wider) else "interpolate"


def redrawn(unknown: np.ndarray, size: Size, card: ModelCard) -> Canvas:
    """A picture of this size, some of whose tokens bool (rows, cols) are drawn anew; its grid may be larger than the
    model's, where it is one of our own."""
    (rows, cols), (height, width) = unknown.shape, card.grid
    if rows < height or cols < width or rows * cols > LARGEST * card.positions:
        message = f"its {rows}×{cols} tokens are not for {card.name}, which has {height}×{width}"
        raise Problem.field("source", f"{message}; send the picture itself, as image", "other_grid")
    return Canvas(unknown=unknown, size=size, windowed=unknown.shape != card.grid)


def varied(fields: VaryFields, grid: tuple[int, int], size: Size, card: ModelCard) -> tuple[Canvas, int]:
    """A picture of this grid and size, fields with a seed; and the seed that said which tokens are kept."""
    seed = fields.seed if fields.keep_seed is None else fields.keep_seed
    assert seed is not None
    return redrawn(~kept(seed, fields.keep, grid), size, card), seed


def outpainted(fields: OutpaintFields, picture: Size, card: ModelCard) -> tuple[Canvas, Padding]:
    """The canvas around a picture of this size, and what is added in its pixels."""
    asked = Padding(**{side: getattr(fields, side) for side in SIDES})
    try:
        geometry = outpaint_geometry(picture, asked, grid=card.grid, stride=card.stride)
    except RequestError as error:
        raise Problem.field(error.field, str(error).partition(": ")[2], "padding") from None
    return Canvas(unknown=~geometry.fixed_cells, size=geometry.size, windowed=True), geometry.padding


def _check_side(name: str, pixels: int, own: int, stride: int) -> None:
    if pixels % stride:
        below = pixels // stride * stride
        near = [str(side) for side in (below, below + stride) if side >= own] or [str(own)]
        say = f"must be whole tokens of {stride} pixels; the nearest {'are' if len(near) > 1 else 'is'}"
        raise Problem.field(name, f"{say} {' and '.join(near)}", "not_whole_tokens")
    if pixels < own:
        raise Problem.field(name, f"must be at least the model's own {own} pixels", "too_small")

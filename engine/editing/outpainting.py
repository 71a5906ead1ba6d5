"""Outpainting: places a picture on a larger canvas of tokens, and its pixels among the drawn ones.

A picture of any size gets a token grid of its own: its short side has as many tokens as the model's grid, its long side
as many as fit its shape best. Tokens of this size are added around it. Where the canvas would be too large for a
picture longer than 2:1, the picture gets fewer tokens, down to half as many along its short side: it is the canvas that
must not be smaller than the model's grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from engine.editing.blending import seamless
from engine.editing.masks import fit
from engine.request import EMPTY, RequestError

Side = Literal["left", "right", "up", "down"]
SIDES: tuple[Side, ...] = get_args(Side)
ALONG: tuple[tuple[Side, Side], ...] = (("up", "down"), ("left", "right"))
"""The sides before and after the picture along each axis: rows, columns."""

REACH = 2
"""Tokens around the picture over which the seamless correction fades."""

BEYOND = 32
"""Pixels by which an original is continued before it is encoded. With 32, the demo's tokenizer gives 88 to 90 % of its
border cells the codes that they have among real neighbours; without, 4 to 54 %."""

LARGEST = 4
"""A canvas has at most LARGEST times the model's rows, its columns and its positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """What is added on each side, in pixels or in tokens."""

    left: int = 0
    right: int = 0
    up: int = 0
    down: int = 0

    def __getitem__(self, side: Side) -> int:
        amount: int = getattr(self, side)
        return amount


@dataclass(frozen=True, slots=True, kw_only=True)
class OutpaintGeometry:
    """The place of a picture on its canvas.

    picture: the original's height and width in pixels. cells: its token rows and columns. margin: tokens added.
    padding: pixels added, at the original's scale; margin rounded down to pixels, but no less than the client asked
    for. stride: pixels on a side of a token, at the model's scale.
    """

    picture: tuple[int, int]
    cells: tuple[int, int]
    margin: Padding
    padding: Padding
    stride: int

    @property
    def grid(self) -> tuple[int, int]:
        """Token rows and columns of the canvas."""
        return _padded(self.cells, self.margin)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the result, in pixels."""
        return _padded(self.picture, self.padding)

    @property
    def fitted(self) -> tuple[int, int]:
        """Height and width to which the original is resized before it is encoded."""
        return self.cells[0] * self.stride, self.cells[1] * self.stride

    @property
    def fixed_cells(self) -> np.ndarray:
        """bool (grid): True where the original lies."""
        fixed_cells = np.zeros(self.grid, dtype=bool)
        fixed_cells[_inside(self.cells, self.margin)] = True
        return fixed_cells

    def canvas(self, tokens: np.ndarray) -> np.ndarray:
        """int32 (grid): tokens (cells) of the original in their place, EMPTY around them."""
        canvas = np.full(self.grid, EMPTY, dtype=np.int32)
        canvas[_inside(self.cells, self.margin)] = tokens
        return canvas

    def continued(self, fitted: np.ndarray) -> np.ndarray:
        """The resized original uint8 (*fitted, 3), with its outermost pixels repeated on the sides where the canvas
        goes on: the tokens of its border then don't say that the picture ends there. Its own tokens: see own."""
        (up, down), (left, right) = ((self._beyond(side) * self.stride for side in sides) for sides in ALONG)
        return np.pad(fitted, ((up, down), (left, right), (0, 0)), mode="edge")

    def own(self, tokens: np.ndarray) -> np.ndarray:
        """The tokens (cells) of the original among those of `continued`."""
        up, left = self._beyond("up"), self._beyond("left")
        return tokens[up : up + self.cells[0], left : left + self.cells[1]]

    def _beyond(self, side: Side) -> int:
        """How many tokens `continued` adds on a side."""
        return -(-BEYOND // self.stride) if self.margin[side] else 0


def outpaint_geometry(
    picture: tuple[int, int], asked: Padding, *, grid: tuple[int, int], stride: int
) -> OutpaintGeometry:
    """The canvas for a picture (height, width in pixels) and the padding asked for, in its pixels. grid and stride are
    the model's.

    Raises RequestError. Its field is the side at fault, or "image" when the canvas would be too long for its width.
    """
    for side in SIDES:
        if asked[side] < 0:
            raise RequestError(side, f"must be 0 or more pixels, got {asked[side]}")
    if not any(asked[side] for side in SIDES):
        raise RequestError("left", "left, right, up and down are all 0: there is nothing to draw")
    cells = cells_of(picture, grid)
    geometry = _around(picture, cells, asked, stride)
    error = _excess(geometry, grid)
    if error is None:
        return geometry
    for axis, fewer in _coarser(picture, cells, grid):
        geometry = _around(picture, fewer, asked, stride)
        if geometry.grid[1 - axis] < grid[1 - axis] or picture[axis] > picture[1 - axis] * 2 * _longest(axis, grid):
            if cells[axis] == LARGEST * grid[axis]:
                error = _too_long(picture, axis, grid)
            break
        error = _excess(geometry, grid)
        if error is None:
            return geometry
    raise error


def _around(picture: tuple[int, int], cells: tuple[int, int], asked: Padding, stride: int) -> OutpaintGeometry:
    margin, padding = {}, {}
    for pixels, tokens, sides in zip(picture, cells, ALONG, strict=True):
        for side in sides:
            margin[side] = -(-asked[side] * tokens // pixels)
            padding[side] = margin[side] * pixels // tokens
    return OutpaintGeometry(
        picture=picture, cells=cells, margin=Padding(**margin), padding=Padding(**padding), stride=stride
    )


def _coarser(
    picture: tuple[int, int], cells: tuple[int, int], grid: tuple[int, int]
) -> Iterator[tuple[int, tuple[int, int]]]:
    """For a picture longer than 2:1: its longer axis, and fewer rows and columns of its shape, the most first."""
    for axis in (0, 1):
        if cells[axis] > 2 * grid[axis]:
            for short in range(grid[1 - axis] - 1, (grid[1 - axis] - 1) // 2, -1):
                along = round(picture[axis] * short / picture[1 - axis])
                yield axis, ((short, along) if axis == 1 else (along, short))


def cells_of(picture: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Token rows and columns of a picture (height, width): as near to its shape as whole tokens allow, but along each
    axis at least the grid and at most LARGEST times the grid."""
    a_token = min(picture[0] / grid[0], picture[1] / grid[1])  # in pixels
    rows, cols = (
        min(max(side, round(pixels / a_token)), LARGEST * side) for pixels, side in zip(picture, grid, strict=True)
    )
    return rows, cols


def assemble(
    original: np.ndarray, drawn: np.ndarray, geometry: OutpaintGeometry, *, smooth: bool = False
) -> np.ndarray:
    """uint8 (*size, 3): the original's pixels, unchanged, and around them the drawn canvas uint8 (grid · stride, 3),
    resized so that its image of the original lies exactly under the original. smooth: correct the drawn part so that it
    meets the original seamlessly, before resizing."""
    if smooth:
        drawn = _meeting(fit(original, geometry.fitted), drawn, geometry)
    (top, bottom), (left, right) = _shown(geometry, 0), _shown(geometry, 1)
    height, width = geometry.size
    canvas = Image.fromarray(drawn).resize((width, height), Image.Resampling.LANCZOS, box=(left, top, right, bottom))
    result = np.array(canvas)
    result[_inside(geometry.picture, geometry.padding)] = original
    return result


def _meeting(fitted: np.ndarray, drawn: np.ndarray, geometry: OutpaintGeometry) -> np.ndarray:
    fixed = geometry.fixed_cells.repeat(geometry.stride, 0).repeat(geometry.stride, 1)
    original = drawn.copy()
    original[fixed] = fitted.reshape(-1, 3)
    return seamless(original, drawn, ~fixed, REACH * geometry.stride)


def _excess(geometry: OutpaintGeometry, grid: tuple[int, int]) -> RequestError | None:
    """The error of a canvas that is too large; its field is the side that adds most."""
    canvas = geometry.grid
    too_long = [side for axis, sides in enumerate(ALONG) if canvas[axis] > LARGEST * grid[axis] for side in sides]
    if not too_long and canvas[0] * canvas[1] > LARGEST * grid[0] * grid[1]:
        too_long = list(SIDES)
    if not too_long:
        return None
    rows, cols, most = LARGEST * grid[0], LARGEST * grid[1], LARGEST * grid[0] * grid[1]
    side = max(too_long, key=lambda side: geometry.margin[side])
    said = f"the canvas would have {canvas[0]} rows and {canvas[1]} columns of tokens; "
    said += f"there may be {rows} rows, {cols} columns, and {most} tokens in all"
    # A longer picture may get fewer tokens, and then more fits.
    if all(own <= cells <= 2 * own for cells, own in zip(geometry.cells, grid, strict=True)):
        room = _room(geometry, side, grid)
        said += f": up to {room} pixels fit on this side" if room > 0 else ": make the other sides smaller"
    return RequestError(side, said)


def _room(geometry: OutpaintGeometry, side: Side, grid: tuple[int, int]) -> int:
    """How many pixels may be added on a side, with the other sides as they are; 0 or less: none."""
    axis = 0 if side in ALONG[0] else 1
    longest = min(LARGEST * grid[axis], LARGEST * grid[0] * grid[1] // geometry.grid[1 - axis])
    free = longest - (geometry.grid[axis] - geometry.margin[side])
    return free * geometry.picture[axis] // geometry.cells[axis]


def _longest(axis: int, grid: tuple[int, int]) -> float:
    """How many times as long as wide a canvas may be."""
    return LARGEST * grid[axis] / grid[1 - axis]


def _too_long(picture: tuple[int, int], axis: int, grid: tuple[int, int]) -> RequestError:
    """The error of a strip whose canvas would be a strip, too, or in which too few tokens would be the picture's."""
    shape, sides = (("high as wide", "left and right"), ("wide as high", "up and down"))[axis]
    most = _longest(axis, grid)
    limits = f"a picture may be {2 * most:g} times as {shape}, and {most:g} times with its padding"
    return RequestError("image", f"{picture[1]}×{picture[0]} pixels: {limits}; pad {sides}")


def _padded(inner: tuple[int, int], padding: Padding) -> tuple[int, int]:
    rows, cols = (
        padding[before] + length + padding[after] for length, (before, after) in zip(inner, ALONG, strict=True)
    )
    return rows, cols


def _inside(inner: tuple[int, int], padding: Padding) -> tuple[slice, slice]:
    return slice(padding.up, padding.up + inner[0]), slice(padding.left, padding.left + inner[1])


def _shown(geometry: OutpaintGeometry, axis: int) -> tuple[float, float]:
    """First and last coordinate along an axis of the part of the drawn canvas that is shown, in its own pixels: all but
    a fraction of a pixel of the result at either end."""
    before, after = ALONG[axis]
    scale = geometry.fitted[axis] / geometry.picture[axis]
    begins = geometry.margin[before] * geometry.stride  # the original
    ends = begins + geometry.fitted[axis]
    first, last = begins - geometry.padding[before] * scale, ends + geometry.padding[after] * scale
    return max(first, 0.0), min(last, float(geometry.grid[axis] * geometry.stride))

"""What `arpg verify` can compare of a picture that is not just what its tokens decode to. The rest is another
picture's, of which the recipe tells nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engine.editing.masks import fit
from engine.editing.outpainting import OutpaintGeometry, Padding, assemble, outpaint_geometry
from engine.request import RequestError
from service.tasks.pictures.colours import profile_of, to_srgb
from service.tasks.pictures.recipe import Recipe, RecipeError

if TYPE_CHECKING:
    from engine.card import ModelCard

ROUNDING = 8
"""Levels by which a pixel may differ and still be the same: a GPU decodes in bfloat16."""

ENOUGH = 0.9
"""Of the pixels compared of a composite, the share that must be what the tokens decode to: a corrected border fades
slowly, and colours are converted."""

MAX_GEOMETRIES = 4
"""Places of an outpainted picture that are tried. Rounding leaves one or two."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """compared, same: pixels. of: which ones were compared. agrees: whether enough are the same. whole: whether no
    pixel is another picture's."""

    compared: int
    same: int
    of: str
    agrees: bool
    whole: bool = False


def check(told: Recipe, size: tuple[int, int], card: ModelCard) -> None:
    """Raises RecipeError if the service makes no composite of this size, height and width in pixels, for the task."""
    if not told.composited:
        return
    match told.task:
        case "inpaint":
            fits = True  # the upload's size, whatever it is
        case "vary":
            rows, cols = told.tokens.shape
            fits = size != (rows * card.stride, cols * card.stride)
        case "outpaint":
            fits = next(_geometries(told, size, card), None) is not None
        case _:
            raise RecipeError(
                f"its recipe says that parts of it are another picture's, and {told.task} makes no such one"
            )
    if not fits:
        raise RecipeError(f"{told.task} makes no picture of {size[1]}×{size[0]} pixels from the tokens of its recipe")


def as_shown(file: bytes, pixels: np.ndarray) -> np.ndarray:
    """The pixels of a file, uint8 (H, W, 3), in sRGB, as a viewer shows them. A composite may have another profile, and
    anybody can put one into any file."""
    with Image.open(io.BytesIO(file)) as picture:
        return to_srgb(pixels, profile_of(picture))


def compare(told: Recipe, pixels: np.ndarray, decoded: np.ndarray, card: ModelCard, *, converted: bool) -> Comparison:
    """pixels, decoded: uint8 (H, W, 3) in sRGB, the picture, which `check` has passed, and what its tokens decode to.
    converted: the picture has other colours, in which its parts were put together."""
    if told.task == "vary":
        same = _same(pixels, fit(decoded, (pixels.shape[0], pixels.shape[1])))
        return Comparison(same.size, int(same.sum()), "all pixels, resized", bool(same.all()), whole=True)
    if told.task == "outpaint":
        return _outpainted(told, pixels, decoded, card, ENOUGH if converted else 1.0)
    return _inpainted(told, pixels, decoded)


def _outpainted(told: Recipe, pixels: np.ndarray, decoded: np.ndarray, card: ModelCard, enough: float) -> Comparison:
    """All drawn pixels follow from the tokens and from the original, which lies in the picture unchanged. enough: the
    share that must be the same."""
    found = []
    for geometry in _geometries(told, (pixels.shape[0], pixels.shape[1]), card):
        (height, width), padding = geometry.picture, geometry.padding
        inside = slice(padding.up, padding.up + height), slice(padding.left, padding.left + width)
        drawn = np.ones(pixels.shape[:2], dtype=bool)
        drawn[inside] = False
        for smooth in (True, False):
            same = _same(pixels, assemble(pixels[inside], decoded, geometry, smooth=smooth))[drawn]
            found.append(
                Comparison(same.size, int(same.sum()), "the pixels around the original", bool(same.mean() >= enough))
            )
    return max(found, key=lambda one: one.same / max(1, one.compared))


def _inpainted(told: Recipe, pixels: np.ndarray, decoded: np.ndarray) -> Comparison:
    """The recipe tells the redrawn cells, and the mask may cover only parts of them; its border may be feathered or
    corrected. So pixels a token or more inside the redrawn part are compared, and deeper ones where these differ."""
    height, width = pixels.shape[:2]
    rows, cols = told.known.shape
    agree, inner, depth = _same(pixels, fit(decoded, (height, width))), ~told.known, 0
    tried: list[Comparison] = []
    while (inner := _eroded(inner)).any():
        depth += 1
        same = agree[inner[np.arange(height) * rows // height][:, np.arange(width) * cols // width]]
        enough = bool(same.size and same.mean() >= ENOUGH)
        of = f"the pixels {depth} or more tokens inside the redrawn part"
        tried.append(Comparison(same.size, int(same.sum()), of, enough))
        if enough:
            return tried[-1]
    return tried[0] if tried else Comparison(0, 0, "the pixels a token or more inside the redrawn part", agrees=True)


def _eroded(cells: np.ndarray) -> np.ndarray:
    """bool (rows, cols): True where the cell and all eight around it are True. Beyond the border none is."""
    rows, cols = cells.shape
    padded = np.pad(cells, 1)
    shifted = [padded[y : y + rows, x : x + cols] for y, x in product(range(3), repeat=2)]
    return np.asarray(np.logical_and.reduce(shifted))


def _same(pixels: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """bool (H, W)."""
    return np.asarray(np.abs(pixels.astype(np.int16) - expected).max(-1) <= ROUNDING)


def _geometries(told: Recipe, size: tuple[int, int], card: ModelCard) -> Iterator[OutpaintGeometry]:
    """How an original may lie in a picture of this size. Its tokens are a rectangle of the canvas; its pixels follow
    from the size, up to rounding."""
    if not told.known.any() or told.known.all():
        return
    lines = [np.flatnonzero(told.known.any(axis)) for axis in (1, 0)]
    (top, bottom), (left, right) = ((int(line[0]), int(line[-1]) + 1) for line in lines)
    cells, (rows, cols) = (bottom - top, right - left), told.known.shape
    if not told.known[top:bottom, left:right].all():
        return
    margin = Padding(up=top, down=rows - bottom, left=left, right=cols - right)
    heights = _lengths(size[0], cells[0], margin.up, margin.down)
    widths = _lengths(size[1], cells[1], margin.left, margin.right)
    found = 0
    for height, width in product(heights, widths):
        padding = Padding(
            up=margin.up * height // cells[0],
            down=margin.down * height // cells[0],
            left=margin.left * width // cells[1],
            right=margin.right * width // cells[1],
        )
        try:
            geometry = outpaint_geometry((height, width), padding, grid=card.grid, stride=card.stride)
        except RequestError:
            continue
        if (geometry.cells, geometry.margin) == (cells, margin) and found < MAX_GEOMETRIES:
            found += 1
            yield geometry


def _lengths(total: int, cells: int, before: int, after: int) -> list[int]:
    """Sides of the original, in pixels, that make a side of the result with margins of so many cells."""
    near = total * cells // (cells + before + after)
    around = range(max(1, near - 2), near + 4)
    return [side for side in around if side + before * side // cells + after * side // cells == total]

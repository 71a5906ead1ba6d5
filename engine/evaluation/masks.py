"""The masks with which editing is measured, the same every time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from engine.training.world.world import scene, silhouettes

BOX_SIDES = (3 / 8, 3 / 4)
STROKES = 4
STROKE_POINTS = 4
STROKE_WIDTH = 3 / 128
MARGIN = 1 / 16


def half(size: int, index: int) -> np.ndarray:
    """The left half."""
    return _block(size, 0, 0, size, size // 2)


def centre(size: int, index: int) -> np.ndarray:
    """The middle quarter: 8×8 of 16×16 tokens."""
    return _block(size, size // 4, size // 4, size - size // 4, size - size // 4)


def box(size: int, index: int) -> np.ndarray:
    """A random box, not aligned with tokens."""
    rng = _rng("box", index)
    height, width = (round(size * rng.uniform(*BOX_SIDES)) for _ in range(2))
    top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
    return _block(size, top, left, top + height, left + width)


def strokes(size: int, index: int) -> np.ndarray:
    """Thin bent lines, like scratches."""
    rng = _rng("strokes", index)
    image = Image.new("1", (size, size))
    for _ in range(STROKES):
        points = [tuple(point) for point in rng.uniform(0, size, (STROKE_POINTS, 2))]
        ImageDraw.Draw(image).line(points, fill=1, width=max(1, round(size * STROKE_WIDTH)))
    return np.array(image)


MASKS: dict[str, Callable[[int, int], np.ndarray]] = {"half": half, "centre": centre, "box": box, "strokes": strokes}


def masks(name: str, count: int, size: int) -> np.ndarray:
    """bool (count, size, size): a mask for each picture, True where it is redrawn."""
    return np.stack([MASKS[name](size, index) for index in range(count)])


def outlines(split: str, count: int, size: int) -> np.ndarray:
    """bool (count, size, size): the objects of a split's first scenes, each with a margin around it."""
    width = 2 * max(1, round(size * MARGIN)) + 1
    found = [Image.fromarray(mask) for mask in silhouettes([scene(split, i) for i in range(count)], size)]
    return np.stack([np.array(image.convert("L").filter(ImageFilter.MaxFilter(width))) > 0 for image in found])


def bounding_boxes(found: np.ndarray) -> np.ndarray:
    """bool (n, H, W): the boxes around masks (n, H, W), none of them empty."""
    return _spans(found, 2) & _spans(found, 1)


def _spans(found: np.ndarray, across: int) -> np.ndarray:
    """The rows (across=2) or columns (across=1) from the first to the last that holds anything; broadcasts."""
    along = 3 - across
    lines = found.any(axis=across, keepdims=True)
    back = np.flip(np.logical_or.accumulate(np.flip(lines, along), axis=along), along)
    return np.logical_or.accumulate(lines, axis=along) & back


def _block(size: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top:bottom, left:right] = True
    return mask


def _rng(name: str, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([*name.encode(), index])))

"""Seamless compositing: what is drawn is shifted, smoothly, so that it meets the original at the mask's border.

Pérez, Gangnet and Blake 2003, "Poisson image editing", in its membrane form: the correction equals original - drawn
along the border and is as smooth as can be inside, here of a membrane that is drawn back to 0 everywhere (a screened
Poisson equation): it mends the border and leaves what lies deeper alone.
"""

from __future__ import annotations

import numpy as np

SWEEPS = 24
"""Of relaxation a scale: what is left after them is far below a level of 255."""

LARGE, FEW_SWEEPS = 512, 3
"""A side at which what the coarser scales found is nearly all there is to find."""


def seamless(original: np.ndarray, drawn: np.ndarray, mask: np.ndarray, reach: float) -> np.ndarray:
    """drawn uint8 (H, W, 3), corrected where mask bool (H, W) holds; untouched elsewhere, or where all is masked.
    reach: pixels inside the border at which the correction has faded to 1/e."""
    if mask.all() or not mask.any():
        return drawn
    box = _around(mask)
    inside, there = mask[box], drawn[box].astype(np.float32)
    wanted = original[box] - there
    shift = membrane(wanted, inside, reach)
    touched, count = _of_neighbours(wanted, ~inside)
    # Up to the border the correction is rough; to be smooth from the very next pixel on would be a seam as well.
    rim = inside & (count > 0)
    shift[rim] = (shift[rim] + touched[rim]) / 2
    result = drawn.copy()
    result[box][inside] = np.rint(np.clip(there + shift, 0, 255))[inside].astype(np.uint8)
    return result


def membrane(values: np.ndarray, free: np.ndarray, reach: float) -> np.ndarray:
    """float32 (H, W, C): values, but where free bool (H, W) holds nearly the mean of the neighbours, so much nearer to
    0 that it fades over `reach` pixels. From coarse to fine: each scale begins with what the coarser one found."""
    if not free.any() or free.all():
        return np.zeros_like(values) if free.all() else values
    if min(free.shape) > 1:
        coarse = membrane(*_halved(values, free), reach / 2)
        found = coarse.repeat(2, 0).repeat(2, 1)[: free.shape[0], : free.shape[1]]
    else:
        found = np.broadcast_to(values[~free].mean(0), values.shape)
    held = ~free[..., None]
    found = np.where(held, values, found)
    weight = 1 / (4 + reach**-2)
    for _ in range(SWEEPS if max(free.shape) <= LARGE else FEW_SWEEPS):
        padded = np.pad(found, ((1, 1), (1, 1), (0, 0)), mode="edge")
        around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        found = np.where(held, values, weight * around)
    return found


def _of_neighbours(values: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of values (H, W, C) over those of the four neighbours of each pixel that are held; how many these are,
    (H, W)."""
    rows, cols = held.shape
    counted = np.pad(held, 1).astype(np.float32)[..., None]
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0))) * counted
    sides = [(slice(i, i + rows), slice(j, j + cols)) for i, j in ((0, 1), (2, 1), (1, 0), (1, 2))]
    count = np.sum([counted[side] for side in sides], axis=0)
    return np.sum([padded[side] for side in sides], axis=0) / np.maximum(count, 1), count[..., 0]


def _halved(values: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At half the scale: the mean of what is held in each square of four."""
    rows, cols = free.shape
    more = ((0, rows % 2), (0, cols % 2))
    held = np.pad(~free, more)
    weight = held.reshape(-1, 2, held.shape[1] // 2, 2).sum((1, 3)).astype(np.float32)
    summed = np.pad(values * ~free[..., None], (*more, (0, 0)))
    summed = summed.reshape(held.shape[0] // 2, 2, held.shape[1] // 2, 2, -1).sum((1, 3))
    return summed / np.maximum(weight, 1)[..., None], weight == 0


def _around(mask: np.ndarray) -> tuple[slice, slice]:
    """The box of what is masked, and a pixel more on each side."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(max(0, rows[0] - 1), rows[-1] + 2), slice(max(0, cols[0] - 1), cols[-1] + 2)

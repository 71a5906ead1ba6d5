"""Seamless compositing: shifts the colours of the drawn part smoothly, so that it meets the original at the border.

Pérez, Gangnet and Blake 2003, "Poisson image editing", in its membrane form: the correction equals original - drawn
along the border and is as smooth as possible inside. Here the membrane is also pulled to 0 everywhere (a screened
Poisson equation), so the correction fades away from the border.
"""

from __future__ import annotations

import numpy as np

SWEEPS = 24
"""Relaxation sweeps on each scale; the error left is far below one level of 255."""

LARGE, FEW_SWEEPS = 512, 3
"""Above a side of LARGE pixels the coarser scales leave little to correct, and FEW_SWEEPS are enough."""


def seamless(original: np.ndarray, drawn: np.ndarray, mask: np.ndarray, reach: float) -> np.ndarray:
    """drawn uint8 (H, W, 3), corrected where mask bool (H, W) is True and unchanged elsewhere. When the mask is all
    True there is no border, and nothing is corrected. reach: pixels inside the border at which the correction has faded
    to 1/e."""
    if mask.all() or not mask.any():
        return drawn
    box = _around(mask)
    inside, there = mask[box], drawn[box].astype(np.float32)
    wanted = original[box] - there
    shift = membrane(wanted, inside, reach)
    touched, count = _of_neighbours(wanted, ~inside)
    # Along the border the correction is rough. If it were smooth from the next pixel on, that would show as a seam.
    rim = inside & (count > 0)
    shift[rim] = (shift[rim] + touched[rim]) / 2
    result = drawn.copy()
    result[box][inside] = np.rint(np.clip(there + shift, 0, 255))[inside].astype(np.uint8)
    return result


def membrane(values: np.ndarray, free: np.ndarray, reach: float) -> np.ndarray:
    """float32 (H, W, C): values, but where free bool (H, W) is True the mean of the four neighbours, scaled so that it
    fades over `reach` pixels. Solved from coarse to fine: each scale starts from the solution of the coarser one."""
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
    """For each pixel, the mean of values (H, W, C) over those of its four neighbours that are held; and the number of
    these, (H, W)."""
    rows, cols = held.shape
    counted = np.pad(held, 1).astype(np.float32)[..., None]
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0))) * counted
    sides = [(slice(i, i + rows), slice(j, j + cols)) for i, j in ((0, 1), (2, 1), (1, 0), (1, 2))]
    count = np.sum([counted[side] for side in sides], axis=0)
    return np.sum([padded[side] for side in sides], axis=0) / np.maximum(count, 1), count[..., 0]


def _halved(values: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """values and free at half the size: each value is the mean of the held ones of four pixels."""
    rows, cols = free.shape
    more = ((0, rows % 2), (0, cols % 2))
    held = np.pad(~free, more)
    weight = held.reshape(-1, 2, held.shape[1] // 2, 2).sum((1, 3)).astype(np.float32)
    summed = np.pad(values * ~free[..., None], (*more, (0, 0)))
    summed = summed.reshape(held.shape[0] // 2, 2, held.shape[1] // 2, 2, -1).sum((1, 3))
    return summed / np.maximum(weight, 1)[..., None], weight == 0


def _around(mask: np.ndarray) -> tuple[slice, slice]:
    """The bounding box of the mask, one pixel larger on each side."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(max(0, rows[0] - 1), rows[-1] + 2), slice(max(0, cols[0] - 1), cols[-1] + 2)

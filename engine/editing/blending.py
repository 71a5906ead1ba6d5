"""Seamless compositing: shifts the colours of the drawn part smoothly, so that it meets the original at the border.

Pérez, Gangnet and Blake 2003, "Poisson image editing", in its membrane form: the correction equals original - drawn
along the border and is as smooth as possible inside. Here the membrane is also pulled to 0 everywhere (a screened
Poisson equation), so the correction fades away from the border.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

Rows = Callable[[int, int], np.ndarray]
"""Rows first … last - 1 of an array float32 (H, W, C), which the caller may change."""

STRIP = 64
"""Rows that are worked on at once; even. A picture of 4096² would need 2 GB as a whole."""

SWEEPS = 24
"""Relaxation sweeps on each scale; the error left is far below one level of 255."""

LARGE, FEW_SWEEPS = 512, 3
"""Above a side of LARGE pixels the coarser scales leave little to correct, and FEW_SWEEPS are enough."""


def seamless(
    original: np.ndarray, drawn: np.ndarray, mask: np.ndarray, reach: float, *, out: np.ndarray | None = None
) -> np.ndarray:
    """drawn uint8 (H, W, 3), corrected where mask bool (H, W) is True. When the mask is all True there is no border,
    and nothing is corrected. reach: pixels inside the border at which the correction has faded to 1/e. out: the array
    whose masked pixels are written, original itself too; None: a copy of drawn."""
    out = drawn.copy() if out is None else out
    if mask.all() or not mask.any():
        np.copyto(out, drawn, where=mask[..., None])
        return out
    box = _around(mask)
    inside, there, goal, result = mask[box], drawn[box], original[box], out[box]

    def wanted(first: int, last: int) -> np.ndarray:
        return goal[first:last] - there[first:last].astype(np.float32)

    shifts = _membrane(wanted, inside, reach)
    for first, last in _strips(len(inside)):
        above, below = max(0, first - 1), min(len(inside), last + 1)
        touched, count = _of_neighbours(wanted(above, below), ~inside[above:below])
        strip = slice(first - above, last - above)
        # Along the border the correction is rough. If it were smooth from the next pixel on, that would show as a seam.
        rim = inside[first:last] & (count[strip] > 0)
        shift = shifts(first, last)
        shift[rim] = (shift[rim] + touched[strip][rim]) / 2
        corrected = np.rint(np.clip(there[first:last] + shift, 0, 255)).astype(np.uint8)
        np.copyto(result[first:last], corrected, where=inside[first:last, :, None])
    return out


def membrane(values: np.ndarray, free: np.ndarray, reach: float) -> np.ndarray:
    """float32 (H, W, C): values, but where free bool (H, W) is True the mean of the four neighbours, scaled so that it
    fades over `reach` pixels."""
    return _membrane(lambda first, last: values[first:last], free, reach)(0, len(values))


def _membrane(values: Rows, free: np.ndarray, reach: float) -> Rows:
    """Solved from coarse to fine: each scale starts from the solution of the coarser one. A scale of few sweeps is
    never held as a whole: a strip of its rows needs only as many rows around it as there are sweeps."""
    height, width = free.shape
    if not free.any():
        return values
    if free.all():
        return lambda first, last: np.zeros_like(values(first, last))
    coarse = None
    if min(free.shape) > 1:
        coarse = _solved(*_halved(values, free), reach / 2)
    weight = 1 / (4 + reach**-2)

    def relaxed(first: int, last: int, sweeps: int) -> np.ndarray:
        above, below = max(0, first - sweeps), min(height, last + sweeps)
        known, held = values(above, below), ~free[above:below, :, None]
        if coarse is None:
            found = np.broadcast_to(known[held[..., 0]].mean(0), known.shape)
        else:
            found = coarse[above // 2 : (below + 1) // 2].repeat(2, 0).repeat(2, 1)
            found = found[above % 2 :][: below - above, :width]
        found = np.where(held, known, found)
        for _ in range(sweeps):
            padded = np.pad(found, ((1, 1), (1, 1), (0, 0)), mode="edge")
            around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
            found = np.where(held, known, weight * around)
        return found[first - above : last - above]

    if max(free.shape) > LARGE and coarse is not None:
        return lambda first, last: relaxed(first, last, FEW_SWEEPS)
    whole = relaxed(0, height, SWEEPS if max(free.shape) <= LARGE else FEW_SWEEPS)
    return lambda first, last: whole[first:last].copy()


def _solved(values: np.ndarray, free: np.ndarray, reach: float) -> np.ndarray:
    """As membrane, written over values: where they are free, nothing reads them."""
    rows = _membrane(lambda first, last: values[first:last], free, reach)
    for first, last in _strips(len(values)):
        values[first:last] = rows(first, last)
    return values


def _strips(rows: int) -> Iterator[tuple[int, int]]:
    """First and last row of each strip, the last excluded."""
    return ((first, min(first + STRIP, rows)) for first in range(0, rows, STRIP))


def _of_neighbours(values: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel, the mean of values (H, W, C) over those of its four neighbours that are held; and the number of
    these, (H, W)."""
    rows, cols = held.shape
    counted = np.pad(held, 1).astype(np.float32)[..., None]
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0))) * counted
    sides = [(slice(i, i + rows), slice(j, j + cols)) for i, j in ((0, 1), (2, 1), (1, 0), (1, 2))]
    count = np.sum([counted[side] for side in sides], axis=0)
    return np.sum([padded[side] for side in sides], axis=0) / np.maximum(count, 1), count[..., 0]


def _halved(values: Rows, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """values and free at half the size: each value is the mean of the held ones of four pixels."""
    height, width = -(-free.shape[0] // 2), -(-free.shape[1] // 2)
    smaller = np.empty((height, width), dtype=bool)
    halves = None
    for first, last in _strips(len(free)):  # a strip begins at an even row
        half, free_half = _halved_strip(values(first, last), free[first:last])
        if halves is None:
            halves = np.empty((height, width, half.shape[-1]), dtype=half.dtype)
        halves[first // 2 : (last + 1) // 2] = half
        smaller[first // 2 : (last + 1) // 2] = free_half
    assert halves is not None
    return halves, smaller


def _halved_strip(values: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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

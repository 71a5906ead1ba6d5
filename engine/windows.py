"""Windows over a canvas that is larger than what a model draws at once: where they lie, in which order."""

from __future__ import annotations

from itertools import product

import numpy as np

from engine.request import Window

OVERLAP = 2
"""Neighbouring windows share one part in so many of their side."""


def windows_over(known: np.ndarray, size: tuple[int, int]) -> tuple[Window, ...]:
    """Windows of size (rows, cols) that together hold every unknown cell of a canvas, known bool (rows, cols).

    The first holds as many known cells as any, the middle one of those (near the middle, of an empty canvas); the
    others follow outwards by half a window, the nearest first, so that each sees what the ones before have drawn.
    Windows in which nothing would be left to draw are left out. Raises ValueError where the canvas is smaller than
    a window.
    """
    rows, cols = known.shape
    height, width = size
    if rows < height or cols < width:
        raise ValueError(f"a canvas of {rows}×{cols} tokens is smaller than a window of {height}×{width}")
    top, left = _first(known, size)
    tops, lefts = _starts(top, rows, height), _starts(left, cols, width)
    corners = sorted(product(tops, lefts), key=lambda corner: (abs(corner[0] - top) + abs(corner[1] - left), corner))
    windows, filled = [], known.copy()
    for row, col in corners:
        inside = filled[row : row + height, col : col + width]
        if not inside.all():
            windows.append(Window(row, col, cols))
            inside[:] = True
    return tuple(windows)


def _first(known: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    inside = np.lib.stride_tricks.sliding_window_view(known, size).sum((-2, -1))
    best = np.argwhere(inside == inside.max())
    if known.any():
        row, col = best[len(best) // 2]
        return int(row), int(col)
    # Whole strides from the upper left corner.
    spare = ((length - side, _stride(side)) for length, side in zip(known.shape, size, strict=True))
    row, col = (rest // 2 // stride * stride for rest, stride in spare)
    return row, col


def _stride(size: int) -> int:
    return size - size // OVERLAP


def _starts(first: int, length: int, size: int) -> list[int]:
    """From the first window outwards, by a stride, to both ends."""
    stride = _stride(size)
    last = length - size
    upwards = [*range(first, last, stride), last]
    downwards = [*range(first, 0, -stride), 0]
    return sorted({*upwards, *downwards})

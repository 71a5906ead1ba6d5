"""Windows over a canvas that is larger than what a model draws at once: where they lie, in which order.

A picture in one window or several: a chain of requests, each drawn around what is already there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from engine.core.sequence import UNKNOWN, Drawn
from engine.request import Request, Window

if TYPE_CHECKING:
    from engine.core.engine import Engine


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


class Painting:
    """tokens int32 (rows, cols): the canvas, UNKNOWN where there is something to draw; windows of size (rows, cols)
    that together hold all that is unknown. Each is the template with its own window and known tokens, and its part of
    the template's order, which goes by canvas position. One window that is the whole canvas is the template's own
    grid, and may be a fork: what the template has drawn is UNKNOWN in tokens, and on the canvas from the start."""

    def __init__(self, template: Request, tokens: np.ndarray, windows: Sequence[Window], size: tuple[int, int]) -> None:
        self.tokens = tokens.copy()
        self.total = int((tokens == UNKNOWN).sum())
        self.steps = sum(min(template.steps, unknown) for unknown in _unknown_each(tokens, windows, size))
        self._template = template
        self._windows = list(windows)
        self._size = size
        self._window: Window | None = None
        self._steps_before = 0
        self._steps_here = 0
        self._done = len(template.drawn)
        self.tokens.flat[list(template.drawn)] = list(template.drawn.values())

    def next_request(self) -> Request | None:
        """The next window's, once the one before is finished; None: all is drawn."""
        self._steps_before += self._steps_here
        if not self._windows:
            return None
        self._window = self._windows.pop(0)
        inside, template = self._inside(self._window), self._template
        cells = [int(cell) for cell in np.flatnonzero(inside != UNKNOWN)]
        known = {cell: int(inside.flat[cell]) for cell in cells if cell not in template.drawn}
        self._steps_here = min(template.steps, inside.size - len(known))
        if self._size == self.tokens.shape:
            return replace(template, known=known)
        order = None if template.order is None else self._part(template.order, known)
        return replace(template, known=known, order=order, window=self._window, grid=self._size)

    def take(self, update: Drawn) -> Drawn:
        """Onto the canvas with what a step drew of the window under way; the same in terms of the whole canvas."""
        assert self._window is not None
        positions = tuple(self._window.position(cell, self._size[1]) for cell in update.positions)
        self.tokens.flat[list(positions)] = update.tokens
        self._done += len(positions)
        return Drawn(
            step=self._steps_before + update.step,
            steps=self.steps,
            positions=positions,
            tokens=update.tokens,
            n_done=self._done,
            n_total=self.total,
        )

    def _part(self, order: tuple[int, ...], known: Mapping[int, int]) -> tuple[int, ...]:
        assert self._window is not None
        rows, cols = self._size
        cells = {self._window.position(cell, cols): cell for cell in range(rows * cols) if cell not in known}
        return tuple(cells[position] for position in order if position in cells)

    def _inside(self, window: Window) -> np.ndarray:
        rows, cols = self._size
        return self.tokens[window.row : window.row + rows, window.col : window.col + cols]


def paint(engine: Engine, paintings: Iterable[Painting]) -> None:
    """To the end, side by side. Updates of other requests are not seen."""
    under_way: dict[int, Painting] = {}

    def go_on(painting: Painting) -> None:
        if (request := painting.next_request()) is not None:
            under_way[engine.add(request)] = painting

    for painting in paintings:
        go_on(painting)
    while under_way:
        for update in engine.step():
            if update.id in under_way:
                under_way[update.id].take(update)
                if update.finished:
                    go_on(under_way.pop(update.id))


def _unknown_each(tokens: np.ndarray, windows: Sequence[Window], size: tuple[int, int]) -> list[int]:
    unknown, counts = tokens == UNKNOWN, []
    for window in windows:
        inside = unknown[window.row : window.row + size[0], window.col : window.col + size[1]]
        counts.append(int(inside.sum()))
        inside[:] = False
    return counts

"""Windows over a canvas that is larger than a model's grid: where they lie, and drawing a picture through them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Protocol

import numpy as np

from engine.request import EMPTY, Request, RequestOutput, StepOutput, Window

OVERLAP = 2
"""Neighbouring windows overlap by 1 / OVERLAP of their side."""


class Generator(Protocol):
    """What generate_windowed calls of an Engine."""

    def add(self, request: Request) -> int: ...

    def step(self) -> Sequence[RequestOutput]: ...


def windows_over(fixed_cells: np.ndarray, window_shape: tuple[int, int]) -> tuple[Window, ...]:
    """Windows of window_shape (rows, cols) that together hold every cell of a canvas that is to be drawn. fixed_cells
    bool (rows, cols): True where the token is given.

    The first window is one of those that hold most fixed cells, the middle one of them (on an empty canvas: one near
    the middle). The others follow outwards by half a window, the nearest first, so that each sees the tokens that
    earlier windows have drawn.
    Windows with nothing left to draw are omitted. Raises ValueError when the canvas is smaller than a window.
    """
    rows, cols = fixed_cells.shape
    height, width = window_shape
    if rows < height or cols < width:
        raise ValueError(f"a canvas of {rows}×{cols} tokens is smaller than a window of {height}×{width}")
    top, left = _first(fixed_cells, window_shape)
    tops, lefts = _starts(top, rows, height), _starts(left, cols, width)
    corners = sorted(product(tops, lefts), key=lambda corner: (abs(corner[0] - top) + abs(corner[1] - left), corner))
    windows, filled = [], fixed_cells.copy()
    for row, col in corners:
        inside = filled[row : row + height, col : col + width]
        if not inside.all():
            windows.append(Window(row, col, cols))
            inside[:] = True
    return tuple(windows)


def cells_of_windows(
    fixed_cells: np.ndarray, windows: Iterable[Window], window_shape: tuple[int, int]
) -> list[np.ndarray]:
    """The cells that each window draws, bool of window_shape; the windows are drawn in their order.

    A token at the border of a window says that the picture ends there: an encoder that has seen no pixels beyond a
    border chooses other codes for it, and a model learns them. So a window also draws the cells again that lay at the
    border of an earlier one, unless they lie at its own border too.
    """
    todo, at_border = ~fixed_cells, np.zeros_like(fixed_cells)
    (rows, cols), (height, width) = fixed_cells.shape, window_shape
    found = []
    for window in windows:
        place = slice(window.row, window.row + height), slice(window.col, window.col + width)
        border = np.zeros(window_shape, bool)
        border[0] |= window.row > 0
        border[-1] |= window.row + height < rows
        border[:, 0] |= window.col > 0
        border[:, -1] |= window.col + width < cols
        drawn = todo[place] | (at_border[place] & ~border)
        at_border[place] = np.where(drawn, border, at_border[place])
        todo[place] = False
        found.append(drawn)
    return found


def _first(fixed_cells: np.ndarray, window_shape: tuple[int, int]) -> tuple[int, int]:
    inside = np.lib.stride_tricks.sliding_window_view(fixed_cells, window_shape).sum((-2, -1))
    best = np.argwhere(inside == inside.max())
    if fixed_cells.any():
        row, col = best[len(best) // 2]
        return int(row), int(col)
    # Whole strides from the upper left corner.
    spare = ((length - side, _stride(side)) for length, side in zip(fixed_cells.shape, window_shape, strict=True))
    row, col = (rest // 2 // stride * stride for rest, stride in spare)
    return row, col


def _stride(side: int) -> int:
    return side - side // OVERLAP


def _starts(first: int, length: int, side: int) -> list[int]:
    """Starts of windows along one axis: from the first window outwards, by a stride, to both ends."""
    stride = _stride(side)
    last = length - side
    upwards = [*range(first, last, stride), last]
    downwards = [*range(first, 0, -stride), 0]
    return sorted({*upwards, *downwards})


class WindowedGeneration:
    """A picture drawn as a chain of requests, one for each window; each is drawn around the tokens that are there.

    tokens int32 (rows, cols): the canvas, EMPTY where a token is to be drawn. windows: windows of window_shape (rows,
    cols) that together hold all EMPTY cells. total: how many tokens they draw; redrawn: how many of these are drawn a
    second time (see cells_of_windows). The request of a window is the template with this window, its fixed tokens, and
    its part of the template's order, which lists canvas positions. With one window that is the whole canvas, the
    template's grid and order stay as they are, and the template may be a fork: the cells of its replayed tokens are
    EMPTY in tokens and filled in self.tokens from the start.
    """

    def __init__(
        self, template: Request, tokens: np.ndarray, windows: Sequence[Window], window_shape: tuple[int, int]
    ) -> None:
        self.tokens = tokens.copy()
        cells = cells_of_windows(tokens != EMPTY, windows, window_shape)
        self.total = sum(int(drawn.sum()) for drawn in cells)
        self.redrawn = self.total - int((tokens == EMPTY).sum())
        self.steps = sum(min(template.steps, int(drawn.sum())) for drawn in cells)
        self._template = template
        self._windows = list(zip(windows, cells, strict=True))
        self._window_shape = window_shape
        self._window: Window | None = None
        self._steps_before = 0
        self._steps_here = 0
        self._done = len(template.replayed_tokens)
        self.tokens.flat[list(template.replayed_tokens)] = list(template.replayed_tokens.values())

    def next_request(self) -> Request | None:
        """The request of the next window; None when all windows are drawn. Call it when the window before it is
        finished."""
        self._steps_before += self._steps_here
        if not self._windows:
            return None
        self._window, drawn = self._windows.pop(0)
        inside, template = self._inside(self._window), self._template
        fixed = {int(cell): int(inside.flat[cell]) for cell in np.flatnonzero(~drawn)}
        self._steps_here = min(template.steps, int(drawn.sum()))
        if self._window_shape == self.tokens.shape:
            return replace(template, fixed_tokens=fixed)
        order = None if template.order is None else self._part(template.order, fixed)
        return replace(template, fixed_tokens=fixed, order=order, window=self._window, grid=self._window_shape)

    def update(self, output: StepOutput) -> StepOutput:
        """Write a step's tokens of the current window to the canvas; returns the output in canvas positions, with
        steps and tokens counted over all windows. Raises the error of a request that was given up."""
        if isinstance(output, RequestOutput) and output.error is not None:
            raise output.error
        assert self._window is not None
        positions = tuple(self._window.position(cell, self._window_shape[1]) for cell in output.positions)
        self.tokens.flat[list(positions)] = output.tokens
        self._done += len(positions)
        return StepOutput(
            step=self._steps_before + output.step,
            steps=self.steps,
            positions=positions,
            tokens=output.tokens,
            n_done=self._done,
            n_total=self.total,
        )

    def _part(self, order: tuple[int, ...], fixed: Mapping[int, int]) -> tuple[int, ...]:
        assert self._window is not None
        rows, cols = self._window_shape
        cells = {self._window.position(cell, cols): cell for cell in range(rows * cols) if cell not in fixed}
        return tuple(cells[position] for position in order if position in cells)

    def _inside(self, window: Window) -> np.ndarray:
        rows, cols = self._window_shape
        return self.tokens[window.row : window.row + rows, window.col : window.col + cols]


def generate_windowed(
    engine: Generator,
    generations: Iterable[WindowedGeneration],
    watch: Callable[[WindowedGeneration, StepOutput], None] = lambda generation, step: None,
) -> None:
    """Draw all generations to the end, side by side. Outputs of the engine's other requests are dropped. watch: is
    called with what each step drew, in canvas positions."""
    running: dict[int, WindowedGeneration] = {}

    def start_next(generation: WindowedGeneration) -> None:
        if (request := generation.next_request()) is not None:
            running[engine.add(request)] = generation

    for generation in generations:
        start_next(generation)
    while running:
        for output in engine.step():
            if output.id in running:
                watch(running[output.id], running[output.id].update(output))
                if output.finished:
                    start_next(running.pop(output.id))

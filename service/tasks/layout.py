"""Where a picture is drawn: the canvas, which of its tokens are fixed, and the windows over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.card import ModelCard
from engine.editing.outpainting import LARGEST
from engine.editing.windows import windows_over
from engine.request import RopeScaling
from service.errors import Problem
from service.jobs.spec import Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """fixed_cells: bool (rows, cols), True where the token is given. size: height and width of the result in pixels.
    window_shape: rows and columns that are drawn at once. rope_scaling: how the model is told of positions beyond its
    own grid."""

    fixed_cells: np.ndarray
    size: Size
    window_shape: Size
    rope_scaling: RopeScaling | None = None

    @property
    def grid(self) -> Size:
        rows, cols = self.fixed_cells.shape
        return rows, cols

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """Row and column of each window, in drawing order; none where the canvas is drawn at once."""
        if self.window_shape == self.grid:
            return ()
        return tuple((window.row, window.col) for window in windows_over(self.fixed_cells, self.window_shape))


def whole_grid(card: ModelCard) -> Layout:
    """The model's own grid, nothing fixed."""
    return Layout(fixed_cells=np.zeros(card.grid, dtype=bool), size=(card.height, card.width), window_shape=card.grid)


def around(fixed_cells: np.ndarray, size: Size, card: ModelCard) -> Layout:
    """A picture of this size of which some tokens are drawn again. Its grid may be larger than the model's: then it is
    a picture that this server drew. Raises Problem where the model can't draw on its grid."""
    (rows, cols), (height, width) = fixed_cells.shape, card.grid
    if rows < height or cols < width or rows * cols > LARGEST * card.positions:
        message = f"its {rows}×{cols} tokens are not for {card.name}, which has {height}×{width}"
        raise Problem.field("source", f"{message}; send the picture itself, as image", "other_grid")
    return Layout(fixed_cells=fixed_cells, size=size, window_shape=card.grid)

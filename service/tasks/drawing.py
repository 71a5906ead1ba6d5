"""How the pictures of a job are drawn: on which canvas, from which tokens, through which windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.editing.windows import WindowedGeneration, windows_over
from engine.request import EMPTY, Request, Window
from service.tasks.inputs import BadUpload, Source

if TYPE_CHECKING:
    from engine.card import ModelCard


@dataclass(frozen=True, slots=True)
class Layout:
    """tokens int32 (rows, cols): what is there before anything is drawn, EMPTY elsewhere. size: rows and columns that
    are drawn at once."""

    tokens: np.ndarray
    size: tuple[int, int]
    windows: tuple[Window, ...]

    @property
    def grid(self) -> tuple[int, int]:
        rows, cols = self.tokens.shape
        return rows, cols

    @property
    def known(self) -> dict[int, int]:
        """Position → token."""
        return {int(cell): int(self.tokens.flat[cell]) for cell in np.flatnonzero(self.tokens != EMPTY)}

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Row and column of each window; none, where the canvas is drawn at once."""
        return [] if self.size == self.grid else [(window.row, window.col) for window in self.windows]

    def generation(self, template: Request) -> WindowedGeneration:
        return WindowedGeneration(template, self.tokens, self.windows, self.size)


def layout_of(payload: Mapping[str, Any], source: Source | None, card: ModelCard) -> Layout:
    """Raises BadUpload where the source is not of the job's grid."""
    rows, cols = payload.get("grid") or card.grid
    tokens = np.full((rows, cols), EMPTY, dtype=np.int32) if source is None else source.canvas
    if tokens.shape != (rows, cols):
        raise BadUpload("upload_damaged", f"the upload's tokens are not of the job's grid of {rows}×{cols}")
    size = card.grid if payload["windowed"] else (rows, cols)
    return Layout(tokens, size, windows_over(tokens != EMPTY, size))

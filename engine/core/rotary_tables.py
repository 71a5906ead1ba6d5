"""The rotary tables of the grids under way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.request import Extension

Canvas = tuple[tuple[int, int], Extension]

KEPT = 16  # tables; nearly all requests are on the model's own grid


class RotaryTables:
    """make: the table of a grid, float32 (positions, head_dim / 2, 2), on the device."""

    def __init__(self, make: Callable[[tuple[int, int], Extension], Tensor]) -> None:
        self._make = make
        self._tables: OrderedDict[Canvas, Tensor] = OrderedDict()

    def of(self, canvases: Sequence[Canvas]) -> tuple[Tensor, list[int]]:
        """One table for all of them, and where each one's entries start."""
        distinct = list(dict.fromkeys(canvases))
        tables = [self._table(canvas) for canvas in distinct]
        starts, start = {}, 0
        for canvas, table in zip(distinct, tables, strict=True):
            starts[canvas] = start
            start += len(table)
        joined = tables[0] if len(tables) == 1 else torch.cat(tables)
        return joined, [starts[canvas] for canvas in canvases]

    def _table(self, canvas: Canvas) -> Tensor:
        if canvas not in self._tables:
            self._tables[canvas] = self._make(*canvas)
            if len(self._tables) > KEPT:
                self._tables.popitem(last=False)
        self._tables.move_to_end(canvas)
        return self._tables[canvas]

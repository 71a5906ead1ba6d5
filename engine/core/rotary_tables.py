"""Rotary tables of the grids in the engine, cached."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.request import RopeScaling

RotaryKey = tuple[tuple[int, int], RopeScaling]

KEPT = 16  # tables; nearly all requests use the model's own grid


class RotaryTables:
    """make: computes the table of a grid, float32 (positions, head_dim / 2, 2), on the device."""

    def __init__(self, make: Callable[[tuple[int, int], RopeScaling], Tensor]) -> None:
        self._make = make
        self._tables: OrderedDict[RotaryKey, Tensor] = OrderedDict()

    def of(self, rotary_keys: Sequence[RotaryKey]) -> tuple[Tensor, list[int]]:
        """The tables of all keys, joined; and where the entries of each key start in it."""
        distinct = list(dict.fromkeys(rotary_keys))
        tables = [self._table(rotary_key) for rotary_key in distinct]
        starts, start = {}, 0
        for rotary_key, table in zip(distinct, tables, strict=True):
            starts[rotary_key] = start
            start += len(table)
        joined = tables[0] if len(tables) == 1 else torch.cat(tables)
        return joined, [starts[rotary_key] for rotary_key in rotary_keys]

    def _table(self, rotary_key: RotaryKey) -> Tensor:
        if rotary_key not in self._tables:
            self._tables[rotary_key] = self._make(*rotary_key)
            if len(self._tables) > KEPT:
                self._tables.popitem(last=False)
        self._tables.move_to_end(rotary_key)
        return self._tables[rotary_key]

"""Rotary tables of the grids in the engine, one after the other in one tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from engine.request import RopeScaling

RotaryKey = tuple[tuple[int, int], RopeScaling]

ROOM = 16
"""Tables of the model's own grid that fit at first; nearly all requests use that grid."""


class RotaryTables:
    """make: computes the table of a grid, float32 (positions, head_dim / 2, 2), on the device.

    table (entries, head_dim / 2, 2): a captured graph reads it at its address, so a new grid is written into it. It is
    replaced only when the grids of one step need more room.
    """

    def __init__(self, make: Callable[[tuple[int, int], RopeScaling], Tensor], own: RotaryKey) -> None:
        self._make = make
        first = make(*own)
        self.table = first.new_zeros(ROOM * len(first), *first.shape[1:])
        self._starts: dict[RotaryKey, int] = {}
        self._used = 0

    def starts(self, rotary_keys: Sequence[RotaryKey]) -> list[int]:
        """Where the entries of each grid start."""
        if missing := [key for key in dict.fromkeys(rotary_keys) if key not in self._starts]:
            self._add(missing, rotary_keys)
        return [self._starts[key] for key in rotary_keys]

    def _add(self, missing: Sequence[RotaryKey], wanted: Sequence[RotaryKey]) -> None:
        made = {key: self._make(*key) for key in missing}
        if self._used + sum(map(len, made.values())) > len(self.table):  # only the grids of this step stay
            made |= {key: self._make(*key) for key in dict.fromkeys(wanted) if key not in made}
            self._starts, self._used = {}, 0
            if (need := sum(map(len, made.values()))) > len(self.table):
                self.table = self.table.new_zeros(2 * need, *self.table.shape[1:])
        for key, table in made.items():
            self._starts[key] = self._used
            self.table[self._used : self._used + len(table)] = table
            self._used += len(table)

"""A request as a row program: for each step, the rows that go through the model.

The scheduler, the cache, the attention and the sampler know rows and nothing of a family; a family is a plan
(this package) and a forward pass (engine.models).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

CONDITION = -1
"""Source of the row that carries the branch's own condition: the class, or the null class."""

NOTHING = -1
"""Target of a row that wants no logits."""


class Row(NamedTuple):
    """One row of a forward pass.

    source: an embedding id, or CONDITION, or token_at(cell) for the token of a canvas cell.
    position: entry of the rotary table; 0 is the condition, cell c is c + 1.
    visible: how many of the branch's cached rows it sees, itself included where it is cached.
    cached: its keys and values stay for later steps.
    target: canvas cell that its logits decide, or NOTHING.
    """

    source: int
    position: int
    visible: int
    cached: bool
    target: int = NOTHING


def token_at(cell: int) -> int:
    """Source of a row that carries the token at a canvas cell."""
    return -2 - cell


def cell_of(source: int) -> int:
    """The canvas cell of token_at."""
    return -2 - source


@dataclass(frozen=True, slots=True)
class Step:
    """Rows of one forward pass, the same for each branch, cached rows first; they are never cut apart."""

    rows: tuple[Row, ...]
    guidance: float = 1.0
    targets: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(row.target for row in self.rows if row.target != NOTHING))


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of a request. conditions: the embedding id behind CONDITION, one a branch; the first branch is
    the conditional one. cached_rows: what a branch will have in the cache at the end."""

    steps: tuple[Step, ...]
    conditions: tuple[int, ...]
    cached_rows: int

    @property
    def branches(self) -> int:
        return len(self.conditions)

    @property
    def drawing_steps(self) -> int:
        return sum(1 for step in self.steps if step.targets)

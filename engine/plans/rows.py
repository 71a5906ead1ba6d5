"""A request as a row program: for each step, the rows that go through the model.

The scheduler, the cache, the attention and the sampler handle rows and know no family. A family is a plan (this
package) and a forward pass (engine.models).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from engine.request import RequestError

CONDITION = -1
"""Source of the row that carries the branch's condition: the class, or the null class."""

NO_TARGET = -1
"""Target of a row that wants no logits."""


class Row(NamedTuple):
    """One row of a forward pass.

    source: an embedding id, or CONDITION, or token_at(cell) for the token of a grid cell.
    position: index into the rotary table; the condition is 0, cell c is c + 1.
    visible: how many of the branch's cached rows it sees, itself included if it is cached.
    cached: whether its keys and values stay in the cache for later steps.
    target: the grid cell whose token its logits decide, or NO_TARGET.
    """

    source: int
    position: int
    visible: int
    cached: bool
    target: int = NO_TARGET


def token_at(cell: int) -> int:
    """Source of a row that carries the token of a grid cell."""
    return -2 - cell


def cell_of(source: int) -> int:
    """Inverse of token_at."""
    return -2 - source


@dataclass(frozen=True, slots=True)
class Step:
    """Rows of one forward pass, the same for each branch, cached rows first. A step is never split. cached: how many
    rows are cached."""

    rows: tuple[Row, ...]
    guidance: float = 1.0
    targets: tuple[int, ...] = field(init=False)
    cached: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(row.target for row in self.rows if row.target != NO_TARGET))
        object.__setattr__(self, "cached", sum(row.cached for row in self.rows))


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of a request. conditions: the embedding id of CONDITION in each branch; the first branch is the
    conditional one. cached_rows: rows of each branch in the cache at the end. replayed: how many drawing steps at the
    start are a fork's, which only write rows. drawing_steps: how many steps draw, replayed ones included."""

    steps: tuple[Step, ...]
    conditions: tuple[int, ...]
    cached_rows: int
    replayed: int = 0
    drawing_steps: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "drawing_steps", self.replayed + sum(1 for step in self.steps if step.targets))

    @property
    def branches(self) -> int:
        return len(self.conditions)

    def replay(self, drawn: Collection[int]) -> Plan:
        """This plan for a fork whose first steps have drawn these cells already. Of these steps only the cached rows
        remain, in the same steps, because what rows see of each other depends on them. Raises RequestError when the
        cells are not those of whole steps."""
        steps, left, replayed = list(self.steps), set(drawn), 0
        for index, step in enumerate(steps):
            if not left:
                break
            if not left.issuperset(step.targets):
                raise RequestError("replayed_tokens", "the positions are not those of the first steps")
            left.difference_update(step.targets)
            replayed += bool(step.targets)
            steps[index] = Step(tuple(row._replace(target=NO_TARGET) for row in step.rows if row.cached))
        if left:
            raise RequestError("replayed_tokens", f"position {min(left)} is never drawn")
        return replace(self, steps=tuple(steps), replayed=replayed)

    def without(self, count: int) -> Plan:
        """This plan without its first count cached rows, which are in the cache already; none of them wants logits."""
        steps = list(self.steps)
        while count:
            rows = steps[0].rows
            cached = sum(row.cached for row in rows)
            if cached <= count and len(rows) == cached:
                del steps[0]
            else:
                steps[0] = replace(steps[0], rows=rows[min(count, cached) :])
            count -= min(count, cached)
        return replace(self, steps=tuple(steps))

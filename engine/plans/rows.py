"""A request as a row program: for each step, the rows that go through the model.

The scheduler, the cache, the attention and the sampler know rows and nothing of a family; a family is a plan
(this package) and a forward pass (engine.models).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from engine.request import RequestError

CONDITION = -1
"""Source of the row that carries the branch's own condition: the class, or the null class."""

NO_TARGET = -1
"""Target of a row that wants no logits."""


class Row(NamedTuple):
    """One row of a forward pass.

    source: an embedding id, or CONDITION, or token_at(cell) for the token of a canvas cell.
    position: entry of the rotary table; 0 is the condition, cell c is c + 1.
    visible: how many of the branch's cached rows it sees, itself included where it is cached.
    cached: its keys and values stay for later steps.
    target: canvas cell that its logits decide, or NO_TARGET.
    """

    source: int
    position: int
    visible: int
    cached: bool
    target: int = NO_TARGET


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
        object.__setattr__(self, "targets", tuple(row.target for row in self.rows if row.target != NO_TARGET))


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of a request. conditions: the embedding id behind CONDITION, one a branch; the first branch is
    the conditional one. cached_rows: what a branch will have in the cache at the end. replayed: how many drawing
    steps at the start only write down again what was drawn before."""

    steps: tuple[Step, ...]
    conditions: tuple[int, ...]
    cached_rows: int
    replayed: int = 0

    @property
    def branches(self) -> int:
        return len(self.conditions)

    @property
    def drawing_steps(self) -> int:
        """Those that draw, and those that are replayed."""
        return self.replayed + sum(1 for step in self.steps if step.targets)

    def replay(self, drawn: Collection[int]) -> Plan:
        """The plan of a request whose first steps have drawn these cells already: only their cached rows are left,
        in the same steps, so that the cache becomes what it was. Raises RequestError where steps end elsewhere."""
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
        """The rest, once the first count rows are in the cache; none of them wants logits."""
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

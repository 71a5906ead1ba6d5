"""A request as a row program: for each step, the rows that go through the model.

The scheduler, the cache, the attention and the sampler handle rows and know no family. A family is a plan (this
package) and a forward pass (engine.models).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from engine.request import RequestError, TextFeatures

CONDITION = -1
"""Source of the row that carries the branch's condition: the class, or the null class. A text's first row."""

MAX_CONDITION_ROWS = 1024
"""Vectors that a condition may have."""

NO_TARGET = -1
"""Target of a row that wants no logits."""


class Row(NamedTuple):
    """One row of a forward pass.

    source: an embedding id, or CONDITION, or condition_at(index), or token_at(cell) for the token of a grid cell.
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


def condition_at(index: int) -> int:
    """Source of a row that carries one vector of the branch's condition: the embedding `index` behind its first."""
    return CONDITION - index


FIRST_TOKEN = CONDITION - MAX_CONDITION_ROWS
"""token_at(0). The sources from here down are tokens."""


def is_condition(source: int) -> bool:
    return FIRST_TOKEN < source <= CONDITION


def token_at(cell: int) -> int:
    """Source of a row that carries the token of a grid cell."""
    return FIRST_TOKEN - cell


def cell_of(source: int) -> int:
    """Inverse of token_at."""
    return FIRST_TOKEN - source


@dataclass(frozen=True, slots=True)
class Condition:
    """What the condition rows of a branch carry: `rows` vectors, of which a class has one. source: the embedding id of
    the first vector, or a text, whose vectors have ids while its sequence runs."""

    source: int | TextFeatures
    rows: int = 1


def longest(conditions: Iterable[Condition]) -> int:
    """The rows of the longest condition."""
    return max(one.rows for one in conditions)


@dataclass(frozen=True, slots=True)
class Step:
    """Rows of one forward pass, the same for each branch (but see Plan.absent), cached rows first. A step is never
    split. cached: how many rows are cached.

    scales: the guidance of each target, where it is not the same for all of them. overwrites: how many cached rows of
    the step before its own cached rows overwrite, the last ones; 0: its rows come behind those that are there.
    """

    rows: tuple[Row, ...]
    guidance: float = 1.0
    scales: tuple[float, ...] = ()
    overwrites: int = 0
    targets: tuple[int, ...] = field(init=False)
    cached: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(row.target for row in self.rows if row.target != NO_TARGET))
        object.__setattr__(self, "cached", sum(row.cached for row in self.rows))
        if not self.scales:
            object.__setattr__(self, "scales", (self.guidance,) * len(self.targets))


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of a request. conditions: what CONDITION means in each branch; the first branch is the conditional one.
    cached_rows: the most rows of a branch in the cache, those at the end. replayed: how many drawing steps at the start
    are a fork's, which only write rows. drawing_steps: how many steps draw, replayed ones included.

    absent: how many condition rows each branch does not have. The rows of a plan are those of the branch with the
    longest condition; the others lack the first ones. They come before all other rows, and every later row of the
    branch sees so many rows fewer."""

    steps: tuple[Step, ...]
    conditions: tuple[Condition, ...]
    cached_rows: int
    replayed: int = 0
    drawing_steps: int = field(init=False)
    absent: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "drawing_steps", self.replayed + sum(1 for step in self.steps if step.targets))
        most = longest(self.conditions)
        object.__setattr__(self, "absent", tuple(most - one.rows for one in self.conditions))

    @property
    def branches(self) -> int:
        return len(self.conditions)

    def rows(self, index: int) -> int:
        """How many rows a step has in all branches together."""
        rows = self.steps[index].rows
        count = len(rows) * self.branches
        for absent in filter(None, self.absent):
            count -= sum(is_condition(row.source) and CONDITION - row.source < absent for row in rows)
        return count

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
            rows = tuple(row._replace(target=NO_TARGET) for row in step.rows if row.cached)
            steps[index] = Step(rows, overwrites=step.overwrites)
        if left:
            raise RequestError("replayed_tokens", f"position {min(left)} is never drawn")
        return replace(self, steps=tuple(steps), replayed=replayed)

    def lasting(self, index: int) -> int:
        """How many cached rows of a step, its first ones, the next step leaves in the cache."""
        return self.steps[index].cached - sum(step.overwrites for step in self.steps[index + 1 : index + 2])

    def without(self, count: int) -> Plan:
        """This plan without its first count lasting rows, which are in the cache already; none of them wants logits.
        Other rows are not there, so the first step that remains overwrites none."""
        first = 0
        while not self.steps[first].targets and count >= self.lasting(first):
            count -= self.lasting(first)
            first += 1
        step, *later = self.steps[first:]
        return replace(self, steps=(replace(step, rows=step.rows[count:], overwrites=0), *later))

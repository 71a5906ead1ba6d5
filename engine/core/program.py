"""A plan as arrays: made once for a sequence when it has its pages, so that a step packs slices of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np

from engine.plans import CONDITION, FIRST_TOKEN, NO_TARGET, Plan, Row
from engine.request import EMPTY

NO_SLOT = -1
"""Of a row that is not cached; of a token that no later row carries."""

SOURCE, POSITION, VISIBLE, SLOT = range(4)
"""The columns of a row. A source ≥ 0 is an embedding id; below 0 it is source_of_slot."""


def source_of_slot(slot: np.ndarray) -> np.ndarray:
    """Source of a row that carries the token in a slot. The cache has a token for each slot: see KVCache.tokens."""
    return -2 - slot


class StepArrays(NamedTuple):
    """One step of a Program, the branches one after the other.

    cached, queries int32 (4, rows): the columns of the rows that are cached, and of the others. lengths int (2,
    branches): how many rows of each kind each branch has. draws int32 (3, n): for
    each token to draw, its rows in the conditional and in the unconditional branch, counted from the step's first row,
    and the slot that keeps the token for later rows. cells int64 (n,): where on the grid it belongs. uniforms float64
    (n,): the random numbers that decide. guidance float32 (n,).
    """

    cached: np.ndarray
    queries: np.ndarray
    lengths: np.ndarray
    draws: np.ndarray
    cells: np.ndarray
    uniforms: np.ndarray
    guidance: np.ndarray


@dataclass(frozen=True, slots=True)
class Program:
    """settings: see sampling_settings. block_tables int32 (branches, pages). conditions: the embedding id of CONDITION
    in each branch."""

    steps: tuple[StepArrays, ...]
    settings: np.ndarray
    block_tables: np.ndarray
    conditions: tuple[int, ...]

    @property
    def branches(self) -> int:
        return len(self.block_tables)


SMALLEST = float(np.finfo(np.float32).tiny)


def sampling_settings(temperature: float, top_p: float, top_k: int) -> np.ndarray:
    """How tokens are drawn, int32 (3,): the bits of temperature and top_p as float32, and top_k."""
    settings = np.array([0, 0, top_k], dtype=np.int32)
    settings.view(np.float32)[:2] = temperature, max(top_p, SMALLEST)  # rounded to 0, it would leave no token
    return settings


def compile_program(
    plan: Plan,
    block_tables: list[list[int]],
    canvas: np.ndarray,
    *,
    conditions: Sequence[int],
    cached: int,
    page_size: int,
    settings: np.ndarray,
    uniform: Callable[[int], float],
) -> Program:
    """canvas int32 (cells,): the tokens that are known. conditions: see Program. cached: rows of the longest branch
    that are in the cache before the plan's first step. uniform: the random number of a cell."""
    tables = np.array(block_tables, dtype=np.int32)
    slots = (tables[:, :, None] * page_size + np.arange(page_size, dtype=np.int32)).reshape(len(tables), -1)
    rows = np.array([*chain.from_iterable(step.rows for step in plan.steps)], dtype=np.int32).T
    step_of = np.repeat(np.arange(len(plan.steps)), [len(step.rows) for step in plan.steps])
    kept = rows[_CACHED] == 1
    absent = np.array(plan.absent, dtype=np.int32)[:, None]
    content, queries = (_Rows(rows[:, kind], step_of[kind], len(plan.steps), absent) for kind in (kept, ~kept))
    slots = np.take_along_axis(slots, np.maximum(_places(plan, cached) - absent, 0), axis=1)

    first_slot = np.full(len(canvas), NO_SLOT, dtype=np.int32)
    carried = content.columns[_SOURCE] <= FIRST_TOKEN
    first_slot[FIRST_TOKEN - content.columns[_SOURCE][carried][::-1]] = slots[0][carried][::-1]
    drawing = _drawing(content, queries)
    cells = drawing.columns[_TARGET][drawing.wanted].astype(np.int64)

    uniforms = np.array([uniform(cell) for cell in cells.tolist()], dtype=np.float64)
    guidance = np.array([*chain.from_iterable(step.scales for step in plan.steps)], dtype=np.float32)
    draws = np.stack([*drawing.branch_pairs(), first_slot[cells]]).astype(np.int32)
    draw_ends = np.searchsorted(drawing.steps[drawing.wanted], np.arange(1, len(plan.steps)))
    steps = zip(
        np.split(content.in_branches(conditions, first_slot, canvas, slots), content.ends, axis=1),
        np.split(queries.in_branches(conditions, first_slot, canvas, None), queries.ends, axis=1),
        np.stack([content.lengths, queries.lengths], axis=1),
        np.split(draws, draw_ends, axis=1),
        np.split(cells, draw_ends),
        np.split(uniforms, draw_ends),
        np.split(guidance, draw_ends),
        strict=True,
    )
    return Program(tuple(map(StepArrays._make, steps)), settings, tables, tuple(conditions))


def _places(plan: Plan, cached: int) -> np.ndarray:
    """Where the cached rows of all steps stand in the longest branch. cached: how many rows are there before the
    first."""
    counts = np.array([step.cached for step in plan.steps])
    overwritten = np.cumsum([step.overwrites for step in plan.steps])
    return cached + np.arange(counts.sum()) - np.repeat(overwritten, counts)


_SOURCE, _POSITION, _VISIBLE, _CACHED, _TARGET = (
    Row._fields.index(name) for name in ("source", "position", "visible", "cached", "target")
)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of the longest branch: columns int32 (fields of Row, rows), and the step of each, of `total` steps. absent
    int32 (branches, 1): see Plan. there bool (branches, rows): which rows each branch has. lengths (total, branches):
    how many rows these are in each step."""

    columns: np.ndarray
    steps: np.ndarray
    total: int
    absent: np.ndarray
    there: np.ndarray = field(init=False)
    lengths: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        there = ~self._of_condition | (CONDITION - self.columns[_SOURCE] >= self.absent)
        lengths = [np.bincount(self.steps[branch], minlength=self.total) for branch in there]
        object.__setattr__(self, "there", there)
        object.__setattr__(self, "lengths", np.stack(lengths, axis=-1))

    @property
    def ends(self) -> np.ndarray:
        """Where all steps but the last end, in the rows of all branches."""
        return np.cumsum(self.lengths.sum(axis=1))[:-1]

    @property
    def wanted(self) -> np.ndarray:
        """Which rows want logits."""
        return np.flatnonzero(self.columns[_TARGET] != NO_TARGET)

    def in_branches(
        self, conditions: Sequence[int], first_slot: np.ndarray, canvas: np.ndarray, slots: np.ndarray | None
    ) -> np.ndarray:
        """The columns of a Program's rows (4, rows of all branches), ordered by step, branch and row."""
        source = self._source(first_slot, canvas)
        every = np.empty((4, *self.there.shape), dtype=np.int32)
        first = np.array(conditions, dtype=np.int32)[:, None] - self.absent
        every[SOURCE] = np.where(self._of_condition, first + CONDITION - source, source)
        every[POSITION] = self.columns[_POSITION]
        every[VISIBLE] = self.columns[_VISIBLE] - self.absent
        every[SLOT] = NO_SLOT if slots is None else slots
        by_step = np.argsort(np.tile(self.steps, len(conditions)), kind="stable")
        by_step = by_step[self.there.ravel()[by_step]]
        return np.ascontiguousarray(every.reshape(4, -1)[:, by_step])

    def branch_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """For each row that wants logits, its place among the step's rows in the first and in the last branch. With
        one branch both are the same row, and guidance changes nothing."""
        wanted = self.wanted
        steps = self.steps[wanted]
        before = np.cumsum(self.lengths, axis=0)[steps] - self.lengths[steps]
        within = (np.cumsum(self.there, axis=1) - 1)[:, wanted].T - before
        return within[:, 0], within[:, -1] + self.lengths[steps, :-1].sum(axis=1)

    @property
    def _of_condition(self) -> np.ndarray:
        return (self.columns[_SOURCE] <= CONDITION) & (self.columns[_SOURCE] > FIRST_TOKEN)

    def _source(self, first_slot: np.ndarray, canvas: np.ndarray) -> np.ndarray:
        """Embedding ids, of the tokens that are known too; the others by the slot that will hold their token."""
        source = self.columns[_SOURCE].copy()
        carried = source <= FIRST_TOKEN
        cells = FIRST_TOKEN - source[carried]
        source[carried] = np.where(canvas[cells] == EMPTY, source_of_slot(first_slot[cells]), canvas[cells])
        return source


def _drawing(content: _Rows, queries: _Rows) -> _Rows:
    """The rows whose logits decide tokens: of one kind in a plan, so that a forward pass has one place to draw from."""
    if len(content.wanted) and len(queries.wanted):
        raise ValueError("cached rows and queries both want logits")
    return content if len(content.wanted) else queries

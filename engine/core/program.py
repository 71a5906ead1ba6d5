"""A plan as arrays: made once for a sequence when it has its pages, so that a step packs slices of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

import numpy as np

from engine.plans import CONDITION, NO_TARGET, Plan, Row


@dataclass(frozen=True, slots=True)
class ContentRows:
    """The cached rows of a step, branch after branch, all (rows,) int32: embedding ids, positions, visible, slots.

    cells int64: the grid cells whose tokens take the place of the ids; drawn: at which rows. None: at all of them.
    """

    ids: np.ndarray
    positions: np.ndarray
    visible: np.ndarray
    slots: np.ndarray
    cells: np.ndarray
    drawn: np.ndarray | None

    def tokens(self, canvas: np.ndarray) -> np.ndarray:
        """Embedding ids (rows,), with what is on the canvas int32 (cells,) by now."""
        if self.drawn is None:
            return canvas[self.cells]
        ids = self.ids.copy()
        ids[self.drawn] = canvas[self.cells]
        return ids


@dataclass(frozen=True, slots=True)
class QueryRows:
    """The other rows of a step, branch after branch, (rows,) int32."""

    ids: np.ndarray
    positions: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True, slots=True)
class StepRows:
    """wanted (n,): those of the content rows that want logits. targets (n,): the cells that the step draws. uniforms
    (n,) float64: the random numbers that decide their tokens."""

    content: ContentRows
    queries: QueryRows
    wanted: np.ndarray
    targets: np.ndarray
    uniforms: np.ndarray
    guidance: float


@dataclass(frozen=True, slots=True)
class Program:
    """steps: those of the plan. block_tables (branches, pages) int32."""

    steps: tuple[StepRows, ...]
    block_tables: np.ndarray


def compile_program(
    plan: Plan, block_tables: list[list[int]], *, cached: int, page_size: int, uniform: Callable[[int], float]
) -> Program:
    """cached: rows of each branch that are in the cache before the plan's first step. uniform: the random number of a
    cell."""
    steps, tables = plan.steps, np.array(block_tables, dtype=np.int32)
    slots = (tables[:, :, None] * page_size + np.arange(page_size, dtype=np.int32)).reshape(len(tables), -1)
    contents = _split([[row for row in step.rows if row.cached] for step in steps])
    queries = _split([[row for row in step.rows if not row.cached] for step in steps])
    targets = _split_targets([step.targets for step in steps])
    conditions, rows = plan.conditions, []
    for index, step in enumerate(steps):
        content = contents[index]
        rows.append(
            StepRows(
                content=_content(content, conditions, slots[:, cached : cached + content.shape[1]]),
                queries=_queries(queries[index], len(conditions)),
                wanted=_wanted(content, len(conditions)),
                targets=targets[index],
                uniforms=np.array([uniform(cell) for cell in step.targets], dtype=np.float64),
                guidance=step.guidance,
            )
        )
        cached += content.shape[1]
    return Program(tuple(rows), tables)


SOURCE, POSITION, VISIBLE, TARGET = (Row._fields.index(name) for name in ("source", "position", "visible", "target"))


def _split(steps: list[list[Row]]) -> list[np.ndarray]:
    """The rows of each step as columns: int32 (fields, rows)."""
    table = np.array([*chain.from_iterable(steps)], dtype=np.int32).reshape(-1, len(Row._fields)).T
    ends = accumulate(map(len, steps), initial=0)
    return [table[:, start:end] for start, end in pairwise(ends)]


def _split_targets(steps: list[tuple[int, ...]]) -> list[np.ndarray]:
    targets = np.array([*chain.from_iterable(steps)], dtype=np.int64)
    return [targets[start:end] for start, end in pairwise(accumulate(map(len, steps), initial=0))]


def _content(columns: np.ndarray, conditions: tuple[int, ...], slots: np.ndarray) -> ContentRows:
    branches = len(conditions)
    sources = np.concatenate([np.where(columns[SOURCE] == CONDITION, id, columns[SOURCE]) for id in conditions])
    drawn = sources < CONDITION
    return ContentRows(
        ids=sources,
        positions=np.concatenate([columns[POSITION]] * branches),
        visible=np.concatenate([columns[VISIBLE]] * branches),
        slots=slots.reshape(-1),
        cells=(-2 - sources[drawn]).astype(np.int64),
        drawn=None if drawn.all() else drawn,
    )


def _queries(columns: np.ndarray, branches: int) -> QueryRows:
    ids, positions, visible = (np.concatenate([columns[field]] * branches) for field in (SOURCE, POSITION, VISIBLE))
    return QueryRows(ids, positions, visible)


def _wanted(content: np.ndarray, branches: int) -> np.ndarray:
    wanted = np.flatnonzero(content[TARGET] != NO_TARGET)
    return np.concatenate([wanted + branch * content.shape[1] for branch in range(branches)])

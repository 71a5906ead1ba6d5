"""A request while it is drawn: its plan, how far it is, its tokens and its pages."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from engine.plans import CONDITION, NOTHING, Plan, Row, Step, cell_of
from engine.request import Extension, Request

UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class StepKey:
    """What the cached rows of a step are made of: embedding id or CONDITION, position and visible, 64 bits each. Two
    drawings with the same conditions, on the same grid, have the same keys and values in the cache for as long as their
    step keys agree. Bytes, since everybody who waits is compared with everybody who runs, in each step."""

    rows: int
    content: bytes

    def __len__(self) -> int:
        return self.rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What a step drew. step is 1-based among the drawing steps; n_total counts the positions that were unknown."""

    step: int
    steps: int
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    n_done: int
    n_total: int

    @property
    def finished(self) -> bool:
        return self.n_done == self.n_total


@dataclass(slots=True, eq=False)
class Drawing:
    """tokens: the canvas of this grid, row-major, UNKNOWN where nothing is drawn yet. tables: a block table a branch,
    empty until the drawing is admitted. cached: rows in the cache, the same for each branch. trail: what those rows
    are made of. prefix: what the rows are made of that it could write without drawing anything."""

    id: int
    request: Request
    plan: Plan
    grid: tuple[int, int]
    tokens: list[int]
    tables: list[list[int]] = field(default_factory=list)
    next_step: int = 0
    cached: int = 0
    drawn: int = 0
    trail: list[StepKey] = field(default_factory=list)
    prefix: tuple[StepKey, ...] = ()

    @classmethod
    def begin(cls, id: int, request: Request, plan: Plan, grid: tuple[int, int]) -> Drawing:
        tokens = [UNKNOWN] * (grid[0] * grid[1])
        for cell, token in (*request.known.items(), *request.drawn.items()):
            tokens[cell] = token
        drawing = cls(id, request, plan.replay(request.drawn), grid, tokens, drawn=len(request.drawn))
        drawing.prefix = tuple(drawing._prefix())
        return drawing

    @property
    def step(self) -> Step:
        return self.plan.steps[self.next_step]

    @property
    def rows(self) -> int:
        """Rows of the next step, all branches."""
        return len(self.step.rows) * self.plan.branches

    @property
    def finished(self) -> bool:
        return self.next_step == len(self.plan.steps)

    @property
    def canvas(self) -> tuple[tuple[int, int], Extension]:
        """Which rotary table its positions are entries of."""
        return self.grid, self.request.extension

    def place(self, cell: int) -> int:
        """Where a cell lies on the canvas of which the grid is a window."""
        window = self.request.window
        return cell if window is None else window.position(cell, self.grid[1])

    def pages(self, page_size: int) -> int:
        """Pages that it needs from start to end, all branches."""
        return -(-self.plan.cached_rows // page_size) * self.plan.branches

    def advance(self, tokens: list[int]) -> None:
        """Take in what the step's rows decided and go on to the next step."""
        step = self.step
        if key := self._key(step):
            self.trail.append(key)
            self.cached += len(key)
        for cell, token in zip(step.targets, tokens, strict=True):
            self.tokens[cell] = token
        self.drawn += len(tokens)
        self.next_step += 1

    def start_after(self, steps: int) -> None:
        """The rows of so many steps of its prefix are in its pages already."""
        self.trail = list(self.prefix[:steps])
        self.cached = sum(map(len, self.trail))
        self.plan = self.plan.without(self.cached)

    def common_steps(self, other: Drawing) -> tuple[int, int]:
        """How many steps of its prefix are in the other's pages now, and how many will be, unless it leaves."""
        if (self.plan.conditions, self.canvas) != (other.plan.conditions, other.canvas):
            return 0, 0
        now = _agreeing(self.prefix, other.trail)
        return now, max(now, _agreeing(self.prefix, other.prefix))

    def _prefix(self) -> Iterator[StepKey]:
        for step in self.plan.steps[:-1]:  # what a drawing's last step writes, nobody can share
            cached = [row for row in step.rows if row.cached]
            if not cached or any(row.target != NOTHING or self._unknown(row) for row in cached):
                return
            yield self._key(step)
            if step.targets:
                return

    def _key(self, step: Step) -> StepKey:
        rows = [row for row in step.rows if row.cached]
        content = array("q")
        for row in rows:
            content.extend((self._embedding(row), row.position, row.visible))
        return StepKey(len(rows), content.tobytes())

    def _embedding(self, row: Row) -> int:
        return row.source if row.source >= CONDITION else self.tokens[cell_of(row.source)]

    def _unknown(self, row: Row) -> bool:
        return row.source < CONDITION and self.tokens[cell_of(row.source)] == UNKNOWN


def _agreeing(ours: Sequence[StepKey], theirs: Sequence[StepKey]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))

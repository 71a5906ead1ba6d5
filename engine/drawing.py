"""A request while it is drawn: its plan, how far it is, its tokens and its pages."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.plans import Plan, Step
from engine.request import Request

UNKNOWN = -1


@dataclass(slots=True)
class Drawing:
    """tokens: the canvas, row-major, UNKNOWN where nothing is drawn yet. tables: a block table a branch, empty
    until the drawing is admitted. cached: rows in the cache, the same for each branch."""

    id: int
    request: Request
    plan: Plan
    tokens: list[int]
    tables: list[list[int]] = field(default_factory=list)
    next_step: int = 0
    cached: int = 0
    drawn: int = 0

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

    def pages(self, page_size: int) -> int:
        """Pages that it needs from start to end, all branches."""
        return -(-self.plan.cached_rows // page_size) * self.plan.branches

    def advance(self, tokens: list[int]) -> None:
        """Take in what the step's rows decided and go on to the next step."""
        step = self.step
        for cell, token in zip(step.targets, tokens, strict=True):
            self.tokens[cell] = token
        self.drawn += len(tokens)
        self.cached += sum(row.cached for row in step.rows)
        self.next_step += 1

"""A request while it is drawn: its plan, its progress, its tokens and its pages."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np

from engine.core.program import Program, compile_program, sampling_settings
from engine.noise import uniform
from engine.plans import FIRST_TOKEN, NO_TARGET, Plan, Row, Step, cell_of
from engine.plans.rows import longest
from engine.request import EMPTY, Request, RequestError, RopeScaling, TextFeatures


@dataclass(frozen=True, slots=True)
class StepKey:
    """Identifies the cached rows of a step: source or token, position and visible of each, 64 bits a number. Two
    sequences with the same conditions and rotary key have the same keys and values in the cache up to the first step
    whose keys differ. Stored as bytes, because each step compares all waiting with all running sequences.

    rows: how many of them the next step does not overwrite. Only these can be shared."""

    rows: int
    content: bytes

    def __len__(self) -> int:
        return self.rows


@dataclass(slots=True, eq=False)
class SequenceState:
    """One picture being drawn.

    A step is dispatched when it is given to the device, and committed when its tokens are back. On a GPU the next step
    is dispatched before, because a plan says what it computes.

    tokens int32 (cells,): its grid, row-major, EMPTY where nothing is committed yet. block_tables: one for each branch;
    none until the sequence is admitted. condition_ids: the embedding id of CONDITION in each branch; none until the
    sequence is admitted. next_step: the step to dispatch, an index into plan.steps. cached: rows of the longest branch
    in the cache once the dispatched steps are computed (see Plan.absent). drawn: how many tokens are committed.
    aborted: its tokens are of no interest any more. prefix_keys: the keys of the steps that it could write before it
    draws anything; other sequences may share them.
    """

    id: int
    request: Request
    plan: Plan
    grid: tuple[int, int]
    tokens: np.ndarray
    block_tables: list[list[int]] = field(default_factory=list)
    condition_ids: list[int] = field(default_factory=list)
    next_step: int = 0
    cached: int = 0
    drawn: int = 0
    aborted: bool = False
    prefix_keys: tuple[StepKey, ...] = ()
    _keys: list[StepKey] = field(default_factory=list)
    _keyed: int = 0
    _program: Program | None = None

    @classmethod
    def begin(cls, id: int, request: Request, plan: Plan, grid: tuple[int, int]) -> SequenceState:
        tokens = np.full(grid[0] * grid[1], EMPTY, dtype=np.int32)
        for cell, token in (*request.fixed_tokens.items(), *request.replayed_tokens.items()):
            tokens[cell] = token
        sequence = cls(
            id, request, plan.replay(request.replayed_tokens), grid, tokens, drawn=len(request.replayed_tokens)
        )
        sequence.prefix_keys = tuple(sequence._prefix_keys())
        return sequence

    @property
    def step(self) -> Step:
        return self.plan.steps[self.next_step]

    @property
    def rows(self) -> int:
        """Rows of the next step, all branches."""
        return self.plan.rows(self.next_step)

    @property
    def texts(self) -> list[TextFeatures]:
        """The texts of its branches."""
        sources = (one.source for one in self.plan.conditions)
        return [source for source in sources if isinstance(source, TextFeatures)]

    @property
    def finished(self) -> bool:
        """Whether all its steps are dispatched."""
        return self.next_step == len(self.plan.steps)

    @property
    def rotary_key(self) -> tuple[tuple[int, int], RopeScaling]:
        """Which rotary table its positions index."""
        return self.grid, self.request.rope_scaling

    def canvas_position(self, cell: int) -> int:
        """The position of a grid cell on the canvas; the cell itself when the grid is no window."""
        window = self.request.window
        return cell if window is None else window.position(cell, self.grid[1])

    def pages(self, page_size: int) -> int:
        """Pages that all its branches need from start to end."""
        return -(-self.plan.cached_rows // page_size) * self.plan.branches

    def check_fits(self, pages: int, page_size: int) -> None:
        """Raises RequestError when it needs more than `pages` pages; it names the longer text if a shorter one would
        fit."""
        if self.pages(page_size) <= pages:
            return
        need = f"needs {self.pages(page_size)} pages of the KV cache, which has {pages} in all"
        texts = {"prompt": self.request.prompt, "negative_prompt": self.request.negative_prompt}
        rows = {field: len(text.rows) for field, text in texts.items() if text is not None}
        most = pages // self.plan.branches * page_size - (self.plan.cached_rows - longest(self.plan.conditions))
        if not rows or most < 1:
            raise RequestError("model", need)
        field = max(rows, key=lambda name: rows[name])
        raise RequestError(field, f"has {rows[field]} tokens, with which the picture {need}; at most {most} tokens fit")

    def program(self, page_size: int) -> Program:
        """The plan as arrays. Once the sequence has its pages."""
        if self._program is None:
            self._program = compile_program(
                self.plan,
                self.block_tables,
                self.tokens,
                conditions=self.condition_ids,
                cached=self.cached,
                page_size=page_size,
                settings=sampling_settings(self.request.temperature, self.request.top_p, self.request.top_k),
                uniform=lambda cell: uniform(self.request.seed, self.request.task, self.canvas_position(cell)),
            )
        return self._program

    def dispatch(self) -> int:
        """Go on to the next step: the device has this one. Returns which it was."""
        self.cached += self.step.cached - self.step.overwrites
        self.next_step += 1
        return self.next_step - 1

    def commit(self, step: int, tokens: list[int]) -> None:
        """Store the tokens that a dispatched step drew, in the order of its targets."""
        assert self._program is not None
        self.tokens[self._program.steps[step].cells] = tokens
        self.drawn += len(tokens)

    def skip_prefix(self, steps: int) -> None:
        """Skip the first steps of the prefix: their rows are in the pages already."""
        self._keys = list(self.prefix_keys[:steps])
        self.cached = sum(map(len, self._keys))
        self.plan = self.plan.without(self.cached)

    def shared_prefix_steps(self, other: SequenceState) -> tuple[int, int]:
        """How many steps of this prefix are in the other's pages now, and how many will be if the other is not
        aborted."""
        if (self.plan.conditions, self.rotary_key) != (other.plan.conditions, other.rotary_key):
            return 0, 0
        now = _agreeing(self.prefix_keys, other.written_keys)
        return now, max(now, _agreeing(self.prefix_keys, other.prefix_keys))

    @property
    def written_keys(self) -> list[StepKey]:
        """The keys of the steps in the cache. Made when they are asked for: few sequences share rows."""
        for step in range(self._keyed, self.next_step):
            if key := self._key(step):
                self._keys.append(key)
        self._keyed = self.next_step
        return self._keys

    def _prefix_keys(self) -> Iterator[StepKey]:
        for index, step in enumerate(self.plan.steps[:-1]):  # the last step writes its rows too late to share them
            lasting = self.plan.lasting(index)
            if not lasting or any(row.target != NO_TARGET for row in step.rows[:lasting]):
                return
            if any(self._is_empty(row) for row in step.rows[: step.cached]):
                return
            yield self._key(index)
            if step.targets:
                return

    def _key(self, index: int) -> StepKey:
        step = self.plan.steps[index]
        content = array("q")
        for row in step.rows[: step.cached]:
            content.extend((self._content(row), row.position, row.visible))
        return StepKey(self.plan.lasting(index), content.tobytes())

    def _content(self, row: Row) -> int:
        return row.source if row.source > FIRST_TOKEN else int(self.tokens[cell_of(row.source)])

    def _is_empty(self, row: Row) -> bool:
        return row.source <= FIRST_TOKEN and bool(self.tokens[cell_of(row.source)] == EMPTY)


def _agreeing(ours: Sequence[StepKey], theirs: Sequence[StepKey]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))

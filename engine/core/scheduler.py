"""Who takes part in the next step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from engine.core.pages import PageAllocator
from engine.core.sequence import SequenceState


class Scheduler:
    """First come, first served, by pages: a drawing is admitted when all the pages it will ever need are free,
    so that nothing is evicted half-way. Running drawings share a row budget a step; whoever had to stand back
    goes first in the next one.

    A drawing whose first rows are in another's pages shares the full ones and copies the one that is not; while the
    other has yet to write them, it waits, and lets those behind it pass. copies: (from, to) pages, which the engine
    copies before the step. rows_shared, pages_copied: totals since the start."""

    def __init__(self, pages: PageAllocator, *, page_size: int, max_rows: int) -> None:
        self.pages = pages
        self.page_size = page_size
        self.max_rows = max_rows
        self.waiting: deque[SequenceState] = deque()
        self.running: deque[SequenceState] = deque()
        self.page_copies: list[tuple[int, int]] = []
        self.rows_shared = 0
        self.pages_copied = 0
        self._aborted: set[int] = set()

    def add(self, sequence: SequenceState) -> None:
        self.waiting.append(sequence)

    def abort(self, sequence_id: int) -> None:
        """Marks a drawing; it leaves, and its pages are free, when the next step is scheduled. Unknown and
        finished ids are ignored."""
        if any(sequence.id == sequence_id for sequence in self):
            self._aborted.add(sequence_id)

    def schedule(self) -> list[SequenceState]:
        """The drawings of the next step, oldest turn first; each takes part with its whole step or not at all."""
        self._drop_aborted()
        self._admit()
        turn: list[SequenceState] = []
        stood_back: list[SequenceState] = []
        budget = self.max_rows
        for sequence in self.running:
            if sequence.rows <= budget or not turn:
                turn.append(sequence)
                budget -= sequence.rows
            else:
                stood_back.append(sequence)
        self.running = deque(stood_back + turn)
        return turn

    def retire(self, sequence: SequenceState) -> None:
        """A drawing leaves and gives its pages back."""
        self.running.remove(sequence)
        self._release(sequence)

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    @property
    def reserved_pages(self) -> int:
        """Pages in use, and those that waiting drawings will need."""
        return self.pages.used + sum(sequence.pages(self.page_size) for sequence in self.waiting)

    def check_integrity(self) -> None:
        """Raises IntegrityError when pages and block tables disagree."""
        self.pages.check_integrity(table for sequence in self for table in sequence.block_tables)

    def __iter__(self) -> Iterator[SequenceState]:
        yield from self.running
        yield from self.waiting

    def _admit(self) -> None:
        put_off: list[SequenceState] = []
        while self.waiting:
            sequence = self.waiting[0]
            donor, steps, soon = self._donor(sequence)
            if soon > steps:
                put_off.append(self.waiting.popleft())
                continue
            if not self._give_pages(sequence, donor, steps):
                break
            self.running.append(self.waiting.popleft())
        self.waiting.extendleft(reversed(put_off))

    def _donor(self, sequence: SequenceState) -> tuple[SequenceState | None, int, int]:
        """Whose pages hold, or will hold, most of its first steps; how many now, and how many soon. Less than a page
        is not worth it."""
        best: tuple[SequenceState | None, int, int] = (None, 0, 0)
        if sum(map(len, sequence.prefix_keys)) < self.page_size:
            return best
        for other in self.running:
            now, soon = sequence.shared_prefix_steps(other)
            if (soon, now) > (best[2], best[1]) and sum(map(len, sequence.prefix_keys[:soon])) >= self.page_size:
                best = (other, now, soon)
        return best

    def _give_pages(self, sequence: SequenceState, donor: SequenceState | None, steps: int) -> bool:
        """False, and nothing is taken, while too few are free."""
        shared = sum(map(len, sequence.prefix_keys[:steps]))
        full, rest = divmod(shared, self.page_size)
        branches = sequence.plan.branches
        each = sequence.pages(self.page_size) // branches - full
        if each * branches > self.pages.free:
            return False
        for branch in range(branches):
            table = [] if donor is None else donor.block_tables[branch][:full]
            self.pages.share(table)
            sequence.block_tables.append(table + self.pages.allocate(each))
            if donor is not None and rest:
                self.page_copies.append((donor.block_tables[branch][full], sequence.block_tables[branch][full]))
        if donor is not None:
            sequence.skip_prefix(steps)
            self.rows_shared += shared * branches
            self.pages_copied += branches if rest else 0
        return True

    def _drop_aborted(self) -> None:
        if not self._aborted:
            return
        for sequence in [d for d in self if d.id in self._aborted]:
            (self.running if sequence.block_tables else self.waiting).remove(sequence)
            self._release(sequence)
        self._aborted.clear()

    def _release(self, sequence: SequenceState) -> None:
        for table in sequence.block_tables:
            self.pages.release(table)
        sequence.block_tables = []

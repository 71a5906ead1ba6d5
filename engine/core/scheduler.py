"""Which sequences take part in the next step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Literal

from engine.core.pages import PageAllocator
from engine.core.sequence import SequenceState
from engine.core.text_places import TextPlaces

Limit = Literal["pages", "rows", "sequences", "texts"]
"""What keeps a sequence out of a step: the KV cache, the row budget, the number of running sequences, or the places for
their texts."""


class Scheduler:
    """First come, first served. A sequence is admitted when all pages that it will ever need are free, so no sequence
    is evicted half-way. Running sequences share the row budget of a step; those that did not fit go first in the next.

    A sequence whose first rows are in another's pages (its donor) shares the full pages and copies the last one when it
    is not full. While the donor has yet to write these rows, the sequence waits, and those behind it may be admitted.

    max_running: sequences that run at once. Far more than a step's rows serve would share its steps, finish late, and
    keep other workers' engines idle. texts: places for the texts of running sequences; None: the model takes none. A
    sequence whose texts find no place waits, and so do those behind it.

    page_copies: pages (from, to) that the engine copies before the step. rows_shared, pages_copied: totals since the
    start. limit: why the last schedule left a sequence out.
    """

    def __init__(
        self,
        pages: PageAllocator,
        *,
        page_size: int,
        max_rows: int,
        max_running: int = 256,
        texts: TextPlaces | None = None,
    ) -> None:
        self.pages = pages
        self.texts = texts
        self.page_size = page_size
        self.max_rows = max_rows
        self.max_running = max_running
        self.limit: Limit | None = None
        self.waiting: deque[SequenceState] = deque()
        self.running: deque[SequenceState] = deque()
        self.page_copies: list[tuple[int, int]] = []
        self.rows_shared = 0
        self.pages_copied = 0
        self._aborted: set[int] = set()

    def add(self, sequence: SequenceState) -> None:
        self.waiting.append(sequence)

    def abort(self, sequence_id: int) -> None:
        """Mark a sequence as aborted. It is removed, and its pages are freed, when the next step is scheduled. Unknown
        and finished ids are ignored."""
        if any(sequence.id == sequence_id for sequence in self):
            self._aborted.add(sequence_id)

    def schedule(self) -> list[SequenceState]:
        """The sequences of the next step, the one that waited longest first. Each takes part with its whole step or not
        at all."""
        self._drop_aborted()
        self.limit = self._admit()
        turn: list[SequenceState] = []
        postponed: list[SequenceState] = []
        budget = self.max_rows
        for sequence in self.running:
            if sequence.rows <= budget or not turn:
                turn.append(sequence)
                budget -= sequence.rows
            else:
                postponed.append(sequence)
        if postponed:
            self.limit = "rows"
        self.running = deque(postponed + turn)
        return turn

    def retire(self, sequence: SequenceState) -> None:
        """Remove a running sequence and free its pages."""
        self.running.remove(sequence)
        self._release(sequence)

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    @property
    def reserved_pages(self) -> int:
        """Pages in use, and those that waiting sequences will need."""
        return self.pages.used + sum(sequence.pages(self.page_size) for sequence in self.waiting)

    def check_integrity(self, *, all_pages: bool = True) -> None:
        """Raises IntegrityError when pages and block tables disagree, or places and texts. all_pages: check the unused
        ones, too."""
        check = self.pages.check_integrity if all_pages else self.pages.check_tables
        check(table for sequence in self for table in sequence.block_tables)
        if self.texts is not None:
            self.texts.check_integrity(text for sequence in self.running for text in sequence.texts)

    def __iter__(self) -> Iterator[SequenceState]:
        yield from self.running
        yield from self.waiting

    def _admit(self) -> Limit | None:
        """Gives waiting sequences their pages, in order. Returns what kept the next one waiting; a sequence that waits
        for another's rows is not counted."""
        limit: Limit | None = None
        passed_over: list[SequenceState] = []
        while self.waiting:
            if len(self.running) >= self.max_running:
                limit = "sequences"
                break
            sequence = self.waiting[0]
            donor, steps, soon = self._donor(sequence)
            if soon > steps:
                passed_over.append(self.waiting.popleft())
                continue
            if self.texts is not None and not self.texts.have_room(sequence.texts):
                limit = "texts"
                break
            if not self._give_pages(sequence, donor, steps):
                limit = "pages"
                break
            self._give_places(sequence)
            self.running.append(self.waiting.popleft())
        self.waiting.extendleft(reversed(passed_over))
        return limit

    def _donor(self, sequence: SequenceState) -> tuple[SequenceState | None, int, int]:
        """The running sequence whose pages hold, or will hold, most of this sequence's first steps; how many of these
        steps they hold now, and how many they will hold. Less than a page of rows is not shared."""
        best: tuple[SequenceState | None, int, int] = (None, 0, 0)
        if sum(map(len, sequence.prefix_keys)) < self.page_size:
            return best
        for other in self.running:
            now, soon = sequence.shared_prefix_steps(other)
            if (soon, now) > (best[2], best[1]) and sum(map(len, sequence.prefix_keys[:soon])) >= self.page_size:
                best = (other, now, soon)
        return best

    def _give_pages(self, sequence: SequenceState, donor: SequenceState | None, steps: int) -> bool:
        """Give a sequence its pages, shared and new. Returns False, and gives none, when too few are free."""
        shared = sum(map(len, sequence.prefix_keys[:steps]))
        rows = [max(0, shared - absent) for absent in sequence.plan.absent]
        whole = sequence.pages(self.page_size) // sequence.plan.branches
        if sum(whole - count // self.page_size for count in rows) > self.pages.free:
            return False
        for branch, count in enumerate(rows):
            full, rest = divmod(count, self.page_size)
            table = [] if donor is None else donor.block_tables[branch][:full]
            self.pages.share(table)
            sequence.block_tables.append(table + self.pages.allocate(whole - full))
            if donor is not None and rest:
                self.page_copies.append((donor.block_tables[branch][full], sequence.block_tables[branch][full]))
                self.pages_copied += 1
        if donor is not None:
            sequence.skip_prefix(steps)
            self.rows_shared += sum(rows)
        return True

    def _give_places(self, sequence: SequenceState) -> None:
        sources = [one.source for one in sequence.plan.conditions]
        if self.texts is None:
            sequence.condition_ids = [source for source in sources if isinstance(source, int)]
        else:
            sequence.condition_ids = [
                source if isinstance(source, int) else self.texts.hold(source) for source in sources
            ]

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
        if self.texts is not None and sequence.block_tables:
            for text in sequence.texts:
                self.texts.release(text)
        sequence.block_tables = []

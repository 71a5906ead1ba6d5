"""Who takes part in the next step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from engine.core.pages import PageAllocator
from engine.core.sequence import Drawing


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
        self.waiting: deque[Drawing] = deque()
        self.running: deque[Drawing] = deque()
        self.copies: list[tuple[int, int]] = []
        self.rows_shared = 0
        self.pages_copied = 0
        self._aborted: set[int] = set()

    def add(self, drawing: Drawing) -> None:
        self.waiting.append(drawing)

    def abort(self, drawing_id: int) -> None:
        """Marks a drawing; it leaves, and its pages are free, when the next step is scheduled. Unknown and
        finished ids are ignored."""
        if any(drawing.id == drawing_id for drawing in self):
            self._aborted.add(drawing_id)

    def schedule(self) -> list[Drawing]:
        """The drawings of the next step, oldest turn first; each takes part with its whole step or not at all."""
        self._drop_aborted()
        self._admit()
        turn: list[Drawing] = []
        stood_back: list[Drawing] = []
        budget = self.max_rows
        for drawing in self.running:
            if drawing.rows <= budget or not turn:
                turn.append(drawing)
                budget -= drawing.rows
            else:
                stood_back.append(drawing)
        self.running = deque(stood_back + turn)
        return turn

    def retire(self, drawing: Drawing) -> None:
        """A drawing leaves and gives its pages back."""
        self.running.remove(drawing)
        self._release(drawing)

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    @property
    def pages_spoken_for(self) -> int:
        """Pages in use, and those that waiting drawings will need."""
        return self.pages.used + sum(drawing.pages(self.page_size) for drawing in self.waiting)

    def check_integrity(self) -> None:
        """Raises IntegrityError when pages and block tables disagree."""
        self.pages.check_integrity(table for drawing in self for table in drawing.tables)

    def __iter__(self) -> Iterator[Drawing]:
        yield from self.running
        yield from self.waiting

    def _admit(self) -> None:
        put_off: list[Drawing] = []
        while self.waiting:
            drawing = self.waiting[0]
            donor, steps, soon = self._donor(drawing)
            if soon > steps:
                put_off.append(self.waiting.popleft())
                continue
            if not self._give_pages(drawing, donor, steps):
                break
            self.running.append(self.waiting.popleft())
        self.waiting.extendleft(reversed(put_off))

    def _donor(self, drawing: Drawing) -> tuple[Drawing | None, int, int]:
        """Whose pages hold, or will hold, most of its first steps; how many now, and how many soon. Less than a page
        is not worth it."""
        best: tuple[Drawing | None, int, int] = (None, 0, 0)
        if sum(map(len, drawing.prefix)) < self.page_size:
            return best
        for other in self.running:
            now, soon = drawing.common_steps(other)
            if (soon, now) > (best[2], best[1]) and sum(map(len, drawing.prefix[:soon])) >= self.page_size:
                best = (other, now, soon)
        return best

    def _give_pages(self, drawing: Drawing, donor: Drawing | None, steps: int) -> bool:
        """False, and nothing is taken, while too few are free."""
        shared = sum(map(len, drawing.prefix[:steps]))
        full, rest = divmod(shared, self.page_size)
        branches = drawing.plan.branches
        each = drawing.pages(self.page_size) // branches - full
        if each * branches > self.pages.free:
            return False
        for branch in range(branches):
            table = [] if donor is None else donor.tables[branch][:full]
            self.pages.share(table)
            drawing.tables.append(table + self.pages.allocate(each))
            if donor is not None and rest:
                self.copies.append((donor.tables[branch][full], drawing.tables[branch][full]))
        if donor is not None:
            drawing.start_after(steps)
            self.rows_shared += shared * branches
            self.pages_copied += branches if rest else 0
        return True

    def _drop_aborted(self) -> None:
        if not self._aborted:
            return
        for drawing in [d for d in self if d.id in self._aborted]:
            (self.running if drawing.tables else self.waiting).remove(drawing)
            self._release(drawing)
        self._aborted.clear()

    def _release(self, drawing: Drawing) -> None:
        for table in drawing.tables:
            self.pages.release(table)
        drawing.tables = []

"""Pages of the KV cache and how many block tables hold each."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence


class OutOfPages(Exception):
    """Fewer pages are free than were asked for."""


class IntegrityError(Exception):
    """Pages and block tables disagree; the message says where."""


class PageAllocator:
    """Allocates pages 0 … total - 1. Each page is free, or held by as many block tables as its count says."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = deque(range(total))
        self._holders = [0] * total

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self.total - self.free

    def allocate(self, count: int) -> list[int]:
        """Take count pages, each with one holder. Raises OutOfPages, and takes none, when fewer are free."""
        if count > self.free:
            raise OutOfPages(f"{count} pages asked for, {self.free} of {self.total} free")
        pages = [self._free.popleft() for _ in range(count)]
        for page in pages:
            self._holders[page] = 1
        return pages

    def share(self, pages: Iterable[int]) -> None:
        """Add a holder to each of these pages. Raises IntegrityError for a free page."""
        for page in pages:
            if self._holders[page] == 0:
                raise IntegrityError(f"page {page} is free and can't be shared")
            self._holders[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """Remove a holder from each of these pages; a page without holders is free. Raises IntegrityError for a free
        page."""
        for page in pages:
            if self._holders[page] == 0:
                raise IntegrityError(f"page {page} is released, but no block table holds it")
            self._holders[page] -= 1
            if self._holders[page] == 0:
                self._free.append(page)

    def check_tables(self, block_tables: Iterable[Sequence[int]]) -> None:
        """block_tables: those of all branches in the engine. Raises IntegrityError unless the holders of each of their
        pages are the tables that list it, and all other pages are free. Takes time for the pages in use alone: a GPU's
        cache has hundreds of thousands."""
        held = _holders(block_tables)
        for page, count in held.items():
            if not 0 <= page < self.total or self._holders[page] != count:
                raise IntegrityError(f"page {page} is in {count} block tables, which are not its holders")
        if self.used != len(held):
            raise IntegrityError(f"{self.used} pages are in use, but block tables list {len(held)}")

    def check_integrity(self, block_tables: Iterable[Sequence[int]]) -> None:
        """As check_tables, and every other page has no holder and is in the free list once."""
        held, free = _holders(block_tables), Counter(self._free)
        for page in range(self.total):
            if held[page] != self._holders[page]:
                raise IntegrityError(
                    f"page {page} is in {held[page]} block tables, but {self._holders[page]} holders are counted"
                )
            if free[page] != (held[page] == 0):
                raise IntegrityError(f"page {page} has {held[page]} holders and is {free[page]} times in the free list")
        strays = (held.keys() | free.keys()) - set(range(self.total))
        if strays:
            raise IntegrityError(f"pages outside the cache: {sorted(strays)}")


def _holders(block_tables: Iterable[Sequence[int]]) -> Counter[int]:
    """How many tables list each page. Raises IntegrityError when one lists a page twice."""
    held: Counter[int] = Counter()
    for table in block_tables:
        if len(set(table)) != len(table):
            raise IntegrityError(f"a block table lists a page twice: {list(table)}")
        held.update(table)
    return held

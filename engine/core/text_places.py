"""Which embedding ids the texts of running sequences have."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from engine.core.pages import IntegrityError
from engine.request import TextFeatures


class TextPlaces:
    """Gives each text a place of `rows` embedding ids, from the id `first` on. Equal texts share a place. It is free
    again when the last sequence with this text leaves.

    written: texts that got a place, with their first embedding id; the engine writes them before the next step.
    """

    def __init__(self, first: int, rows: int, total: int) -> None:
        self.total = total
        self.written: list[tuple[int, TextFeatures]] = []
        self._free = deque(range(first, first + rows * total, rows))
        self._ids: dict[TextFeatures, int] = {}
        self._holders: Counter[TextFeatures] = Counter()

    @property
    def used(self) -> int:
        return len(self._ids)

    def have_room(self, texts: Iterable[TextFeatures]) -> bool:
        """Whether hold would find a place for each of them."""
        return len(set(texts) - self._ids.keys()) <= len(self._free)

    def hold(self, text: TextFeatures) -> int:
        """The embedding id of the text's first row, until release. Raises IndexError when there is no place."""
        if text not in self._ids:
            self._ids[text] = self._free.popleft()
            self.written.append((self._ids[text], text))
        self._holders[text] += 1
        return self._ids[text]

    def release(self, text: TextFeatures) -> None:
        """Take back one hold."""
        self._holders[text] -= 1
        if self._holders[text] == 0:
            del self._holders[text]
            self._free.append(self._ids.pop(text))

    def check_integrity(self, held: Iterable[TextFeatures]) -> None:
        """held: the texts of all running sequences. Raises IntegrityError unless these, and no others, have places."""
        if Counter(held) != self._holders or self._holders.keys() != self._ids.keys():
            raise IntegrityError(f"{self.used} texts have places, which are not those of the running sequences")
        if len(self._free) + len(set(self._ids.values())) != self.total:
            raise IntegrityError(f"{len(self._free)} of {self.total} places are free, and {self.used} are used")

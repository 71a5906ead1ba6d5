"""The order of the work on pictures: finished ones first, and clients in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Generic, Literal, TypeVar, get_args

T = TypeVar("T")
Kind = Literal["finished", "source", "preview"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PATIENCE = 4
"""So many finished pictures go before a source that waits; then it has its turn. Else jobs without sources, which never
wait for them, could keep jobs with sources from ever being drawn."""


class PictureQueue(Generic[T]):
    """Work that waits. Finished pictures go before sources, sources before previews; within each kind, each client has
    one turn before any has a second. Not thread-safe."""

    def __init__(self) -> None:
        self._lines: dict[Kind, dict[str, deque[T]]] = {kind: {} for kind in KINDS}
        self._before_source = 0  # finished pictures that have gone before the source that waits

    def __bool__(self) -> bool:
        return any(self._lines.values())

    def put(self, kind: Kind, client: str, work: T) -> None:
        self._lines[kind].setdefault(client, deque()).append(work)

    def peek(self) -> T:
        """What `take` would return. Only while there is something."""
        line = self._lines[self._next_kind()]
        return next(iter(line.values()))[0]

    def take(self) -> T:
        """The next work. Only while there is something."""
        kind = self._next_kind()
        self._before_source = self._before_source + 1 if kind == "finished" and self._lines["source"] else 0
        client, works = next(iter(self._lines[kind].items()))
        work = works.popleft()
        self._pass_on(kind, client)
        return work

    def take_more(self, kind: Kind, fits: Callable[[T], bool], limit: int) -> list[T]:
        """Up to `limit` more works of this kind that fit, clients in turn."""
        taken: list[T] = []
        for client, work in list(self._in_turn(kind)):
            if len(taken) == limit:
                break
            if fits(work):
                taken.append(work)
                self._lines[kind][client].remove(work)
                self._pass_on(kind, client)
        return taken

    def _next_kind(self) -> Kind:
        if self._lines["source"] and self._before_source >= PATIENCE:
            return "source"
        return next(kind for kind in KINDS if self._lines[kind])

    def _pass_on(self, kind: Kind, client: str) -> None:
        """The client has had its turn, and waits behind the others."""
        if works := self._lines[kind].pop(client):
            self._lines[kind][client] = works

    def _in_turn(self, kind: Kind) -> Iterator[tuple[str, T]]:
        for turn in zip_longest(*([(client, work) for work in works] for client, works in self._lines[kind].items())):
            yield from (one for one in turn if one is not None)

"""Which connection is closed when a new one comes at the limit."""

from __future__ import annotations

import heapq
import itertools
import time
import weakref
from collections.abc import Collection, Iterable
from typing import Generic, Protocol, TypeVar

RANKED_FOR = 0.1
"""Seconds for which a ranking of all connections serves."""

Rank = tuple[float, float]
"""The lowest is closed first."""


class Rankable(Protocol):
    @property
    def eviction_rank(self) -> Rank | None: ...


C = TypeVar("C", bound=Rankable)


class EvictionOrder(Generic[C]):
    """The connections of a server that may be closed for a new one.

    While many connections arrive at the limit, to rank all of them for each new one would take the server's whole time.
    So a ranking serves for RANKED_FOR seconds, or until it is used up.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Rank, int, weakref.ref[C]]] = []
        self._count = itertools.count()
        self._ranked_at = -RANKED_FOR

    def replace(self, connections: Collection[C], new: C) -> C | None:
        """The connection to close for the new one. None: all others are busy."""
        victim = None
        if time.monotonic() - self._ranked_at < RANKED_FOR:
            victim = self._pop(connections)
        if victim is None:
            self._rank(one for one in connections if one is not new)
            victim = self._pop(connections)
        self._push(new)
        return victim

    def _rank(self, connections: Iterable[C]) -> None:
        self._heap, self._ranked_at = [], time.monotonic()
        for connection in connections:
            self._push(connection)

    def _push(self, connection: C) -> None:
        if (rank := connection.eviction_rank) is not None:
            heapq.heappush(self._heap, (rank, next(self._count), weakref.ref(connection)))

    def _pop(self, connections: Collection[C]) -> C | None:
        """The first whose rank has not risen. One whose rank has risen takes its new place."""
        while self._heap:
            ranked, _, reference = heapq.heappop(self._heap)
            connection = reference()
            if connection is None or connection not in connections:
                continue
            rank = connection.eviction_rank
            if rank is not None and rank <= ranked:
                return connection
            self._push(connection)
        return None

"""Which connection makes room for a new one, and what it costs to find it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.server import eviction
from service.server.eviction import EvictionOrder, Rank


@dataclass(eq=False)
class Connection:
    rank: Rank | None
    asked: int = 0

    @property
    def eviction_rank(self) -> Rank | None:
        self.asked += 1
        return self.rank


ranks = st.tuples(st.sampled_from([0.0, 1.0, 2.0, 3.0]), st.floats(0, 100))


@given(st.lists(st.none() | ranks, max_size=8), st.lists(ranks, max_size=12), st.data())
def test_each_new_connection_replaces_the_one_of_the_lowest_rank(
    open_ones: list[Rank | None], new_ones: list[Rank], data: st.DataObject
) -> None:
    """Also when ranks have risen meanwhile, or connections are gone. None of them is replaced twice."""
    order: EvictionOrder[Connection] = EvictionOrder()
    connections = [Connection(rank) for rank in open_ones]
    for rank in new_ones:
        new = Connection(rank)
        connections.append(new)
        lowest = min((one.rank for one in connections[:-1] if one.rank is not None), default=None)
        victim = order.replace(connections, new)
        assert (victim.rank if victim else None) == lowest
        if victim is not None:
            victim.rank = None  # it still counts until it is lost
            if data.draw(st.booleans()):
                connections.remove(victim)
        for other in data.draw(st.lists(st.sampled_from(connections), max_size=2)):
            risen = data.draw(st.none() | ranks)
            if other.rank is not None:
                other.rank = None if risen is None else max(risen, other.rank)


def test_a_flood_of_new_connections_ranks_the_others_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction, "RANKED_FOR", 60.0)
    order: EvictionOrder[Connection] = EvictionOrder()
    number = count()
    connections = {Connection((1, next(number))) for _ in range(1000)}
    asked = list(connections)
    for _ in range(500):
        new = Connection((1, next(number)))
        connections.add(new)
        asked.append(new)
        victim = order.replace(connections, new)
        assert victim is not None
        connections.remove(victim)
    assert max(one.asked for one in asked) <= 2  # to rank it, and to see that its rank is as it was

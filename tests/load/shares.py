"""How much of its fair share each client got."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

ALWAYS = 0.98
"""Share of the looks: a client has no waiting job while it sends its next request."""


def always_waiting(looks: Sequence[Collection[str]]) -> set[str]:
    """looks: the clients with waiting jobs, at each of many moments."""
    clients = {client for look in looks for client in look}
    return {client for client in clients if sum(client in look for look in looks) >= ALWAYS * len(looks)}


def of_fair_share(
    got: Mapping[str, float], weights: Mapping[str, float], looks: Sequence[Collection[str]]
) -> dict[str, float]:
    """What each client got, in units of its fair share: its part, by weight, of what these clients got together.

    Only clients that always had jobs waiting count: others could have got more by asking for more.
    """
    clients = always_waiting(looks)
    together, weight = sum(got.get(client, 0.0) for client in clients), sum(weights[client] for client in clients)
    if not together:
        return dict.fromkeys(clients, 0.0)
    return {client: got.get(client, 0.0) / (together * weights[client] / weight) for client in clients}

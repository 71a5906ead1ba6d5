"""Whether everybody got their share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

ALWAYS = 0.98
"""Of the moments looked at: a client may have nothing waiting for as long as it takes to send the next request."""


def always_waiting(looks: Sequence[Collection[str]]) -> set[str]:
    """looks: who had work waiting at each of many moments."""
    clients = {client for look in looks for client in look}
    return {client for client in clients if sum(client in look for look in looks) >= ALWAYS * len(looks)}


def of_fair_share(
    got: Mapping[str, float], weights: Mapping[str, float], looks: Sequence[Collection[str]]
) -> dict[str, float]:
    """What each client got, in units of its fair share, of those that always had work waiting: nobody else can
    complain. Their shares are of what they got together, by weight."""
    clients = always_waiting(looks)
    together, weight = sum(got.get(client, 0.0) for client in clients), sum(weights[client] for client in clients)
    if not together:
        return dict.fromkeys(clients, 0.0)
    return {client: got.get(client, 0.0) / (together * weights[client] / weight) for client in clients}

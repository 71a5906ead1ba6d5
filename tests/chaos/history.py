"""What a run leaves to be judged: plain data, from no particular service."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TERMINAL = {"completed": "succeeded", "failed": "failed", "canceled": "canceled"}
"""Event → state."""


@dataclass(frozen=True, slots=True)
class Event:
    id: str
    name: str
    data: dict[str, Any]


@dataclass(slots=True)
class View:
    """What one reader saw, over all its connections. ended: it was told of the end, or was sent home after it."""

    job: str
    events: list[Event] = field(default_factory=list)
    connections: int = 0
    ended: bool = False


@dataclass(slots=True)
class Outcome:
    """A job as the server has it at the end. pictures: index → digest of the bytes a client gets; tokens likewise."""

    state: str
    error: str | None = None
    tokens: dict[int, list[list[int]]] = field(default_factory=dict)
    pictures: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client wanted of one idempotency key. poison: the error codes that it may end with; None: harmless."""

    key: str
    images: int
    poison: frozenset[str] | None = None


@dataclass(slots=True)
class History:
    """accepted: key → the id of each answer that accepted it. cancels: id → the states that the answers to a cancel
    told. streams: id → all its events. leftovers: what a quiet service should not hold, with its amount. complaints:
    answers that no client should get, as they came."""

    asked: dict[str, Asked] = field(default_factory=dict)
    accepted: dict[str, list[str]] = field(default_factory=dict)
    cancels: dict[str, list[str]] = field(default_factory=dict)
    views: list[View] = field(default_factory=list)
    streams: dict[str, list[Event]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    leftovers: dict[str, float] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Violation:
    rule: str
    job: str
    detail: str

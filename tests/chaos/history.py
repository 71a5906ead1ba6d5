"""What the checker judges: plain data, independent of the service."""

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
    """What one reader saw over all its connections. ended: it received the terminal event, or 204 after it."""

    job: str
    events: list[Event] = field(default_factory=list)
    connections: int = 0
    ended: bool = False


@dataclass(slots=True)
class Outcome:
    """A job as Valkey holds it at the end. tokens: by index. pictures: digests of the bytes that a client gets.
    start_by: its start deadline; started_at: the start of its last attempt; both in unix seconds."""

    state: str
    error: str | None = None
    tokens: dict[int, list[list[int]]] = field(default_factory=dict)
    pictures: dict[int, str] = field(default_factory=dict)
    start_by: float | None = None
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """The request behind one idempotency key. poison: the error codes it may end with; None: harmless. deadline,
    webhook: whether it has a start deadline, and a webhook."""

    key: str
    images: int
    poison: frozenset[str] | None = None
    client: str = ""
    deadline: bool = False
    webhook: bool = False


@dataclass(slots=True)
class History:
    """Everything that happened in a run.

    accepted: key → the job id of each response that accepted it. cancels: id → the states that responses to a cancel
    gave. streams: id → all its events. lists: client → ids of its jobs, as its list told them. called: id → the states
    that calls of its webhook told. leftovers: name → amount of what an idle service should not hold. complaints:
    responses that no client should get.
    """

    asked: dict[str, Asked] = field(default_factory=dict)
    accepted: dict[str, list[str]] = field(default_factory=dict)
    cancels: dict[str, list[str]] = field(default_factory=dict)
    views: list[View] = field(default_factory=list)
    streams: dict[str, list[Event]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    called: dict[str, list[str]] = field(default_factory=dict)
    leftovers: dict[str, float] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Violation:
    rule: str
    job: str
    detail: str

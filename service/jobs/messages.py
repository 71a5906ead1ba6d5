"""The messages between API and workers: plain data, no Redis."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from service.jobs.spec import SPEC_VERSION

State = Literal["queued", "running", "succeeded", "failed", "canceled"]
AttemptKey = tuple[str, int]  # job id and attempt
PublishStatus = Literal["ok", "dup", "lost", "cancel"]
Finished = Literal["ok", "already", "lost"]
Quarantined = Literal["ok", "failed", "canceled", "already", "lost"]
Canceled = Literal["canceled", "requested", "finished", "unknown"]
Priority = Literal["low", "normal", "high"]
WebhookState = Literal["pending", "delivered", "failed"]

FINAL_STATES = frozenset({"succeeded", "failed", "canceled"})
TERMINAL_EVENTS = frozenset({"completed", "failed", "canceled"})
VERSION = 3  # of the scripts and of the keys they share: another layout gets another prefix

EventId = tuple[int, int]
ZERO: EventId = (0, 0)

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_NAME = re.compile(r"[A-Za-z0-9_.:@/-]{1,200}")


class QueueFull(Exception):
    """No room for another job now: the caller may try again later."""


class QuotaFull(Exception):
    """The client has used up its quota of queued and running jobs. It may try again when one of them has ended."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} jobs of this client are queued or running, and it may have no more")
        self.limit = limit


class BlobStoreFull(Exception):
    """The byte budget of the blob store is used up: the caller may try again later."""


class UploadQuotaFull(Exception):
    """The client's uploads would leave too little room for those of others. It may try again when one of its jobs has
    ended."""

    def __init__(self, held: int, more: int, limit: int) -> None:
        super().__init__(
            f"uploads of this client's unfinished jobs take {held} bytes, and {more} more would be above the {limit} "
            "that they may take now"
        )


class BlobTooLarge(BlobStoreFull):
    """The blob is larger than the whole budget: it will never fit."""


class WatchEnded(Exception):
    """A watch ended before the terminal event."""


class Gone(WatchEnded):
    """The job's events are no longer there (expired, or never were)."""


class Lagged(WatchEnded):
    """The watcher read too slowly and was dropped; it may resume from its last event id."""


class HubClosed(WatchEnded):
    """This replica is shutting down; the watcher may resume elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    namespace: str = "arpg"
    lease_seconds: float = 15.0
    max_queued: int = 1000  # jobs that may wait for a model; beyond it submit raises QueueFull
    max_lost: int = 3  # attempts lost with their worker, with no other job beside them, before the job fails
    quarantine_seconds: float = 10.0  # a poison candidate waits so long for an idle worker, then a busy one is emptied
    result_ttl_seconds: float = 3600.0  # how long a finished job, its events and its pictures stay readable
    held_seconds: float = 24 * 3600.0  # how long a job's blobs wait for its end, and the job to be drawn
    spec_version: int = SPEC_VERSION  # of the jobs that this process submits and claims
    unread_seconds: float = 600.0  # jobs of another version fail when no worker has claimed any for so long
    max_listed: int = 10_000  # jobs in a client's list; beyond it the oldest of those that ended leave it

    @property
    def prefix(self) -> str:
        """Every key starts with it; the braces put them all in one cluster slot."""
        return f"{{{self.namespace}:v{VERSION}}}:"

    def line(self, model: str) -> str:
        """The jobs for a model that workers of this version can draw."""
        return f"{model}@{self.spec_version}"

    def line_key(self, places: str, model: str) -> str:
        """Of one of a line's sets: `ready`, `quarantine`, `leases` …"""
        return f"{self.prefix}{places}:{self.line(model)}"

    @property
    def lease_ms(self) -> int:
        return max(1, round(self.lease_seconds * 1000))

    @property
    def quarantine_ms(self) -> int:
        return round(self.quarantine_seconds * 1000)

    @property
    def ttl_ms(self) -> int:
        return max(1, round(self.result_ttl_seconds * 1000))

    @property
    def held_ms(self) -> int:
        return max(1, round(self.held_seconds * 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    id: str
    model: str
    client: str = "local"
    cost: int  # KV tokens
    pixels: int = 0  # that a worker has to read, composite and write
    spec: str  # a JobSpec as text, which the queue never reads
    weight: float = 1.0  # share of the client against others of the same model
    priority: Priority = "normal"
    quota: int | None = None  # jobs of this client that may be queued or running, of all models together
    blobs: tuple[str, ...] = ()  # names of stored blobs that are the job's from now on, and end with it
    repeats: str = ""  # by which a repeated request finds the job as long as it is kept; empty: not at all
    effort: int = 1  # what the time to draw it grows with, such as steps
    about: Mapping[str, Any] = field(default_factory=dict)  # what the client's list tells of it; never read here
    start_seconds: float | None = None  # the job fails if no worker has claimed it by then
    webhook: str = ""  # the URL to call when it ends; empty: none
    request_id: str = ""  # of the request that made it, for the logs of all processes

    def __post_init__(self) -> None:
        for name in ("id", "model"):
            if not _NAME.fullmatch(getattr(self, name)):
                raise ValueError(f"{name}: 1 to 200 of the characters A-Z a-z 0-9 _ . : @ / -")
        if not self.client:
            raise ValueError("client: must not be empty")
        if self.cost < 1:
            raise ValueError("cost: must be at least 1")
        if self.pixels < 0:
            raise ValueError("pixels: must not be negative")
        if self.effort < 1:
            raise ValueError("effort: must be at least 1")
        if not 0.001 <= self.weight <= 1000:
            raise ValueError("weight: must be in 0.001 … 1000")
        if self.priority not in get_args(Priority):
            raise ValueError("priority: must be low, normal or high")
        if self.quota is not None and self.quota < 0:
            raise ValueError("quota: must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    id: str  # of the job that an earlier request made, if this one repeats it
    created: bool  # False: the job was known, nothing changed
    state: State
    position: int | None  # jobs ahead of it; None when it is not queued


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    id: str
    attempt: int
    cost: int
    spec: str  # a JobSpec as text, which the queue never reads
    cancel_requested: bool
    queued_seconds: float = 0.0  # from submission to this claim, by the server's clock
    alone: bool = False  # a poison candidate: nothing may be drawn beside it
    pictures: tuple[dict[str, Any], ...] = ()  # what earlier attempts stored of it: see BlobStore.put
    client: str = "local"
    pixels: int = 0  # as in NewJob
    request_id: str = ""  # as in NewJob


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """A job that the queue itself ended."""

    id: str
    state: State
    spec: str  # a JobSpec as text, which the queue never reads
    code: str = ""  # of its error
    request_id: str = ""  # as in NewJob
    seconds: float = 0.0  # from its submission to its end


class Claims(list[Claim]):
    """The jobs of a claim.

    become_empty: a poison candidate has waited long, and this worker must claim nothing more until it is empty. ended:
    jobs that the claim ended, because their last worker was lost. taken_over: how many jobs it took from workers whose
    leases had expired.
    """

    def __init__(
        self, claims: Iterable[Claim], *, become_empty: bool, ended: Iterable[EndedJob], taken_over: int
    ) -> None:
        super().__init__(claims)
        self.become_empty = become_empty
        self.ended = tuple(ended)
        self.taken_over = taken_over


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    job_id: str
    attempt: int
    sequence: int
    event: str | None  # None: a heartbeat, which only renews the lease
    data: bytes = b""  # by encode_event


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """error: why the last call did not deliver it; empty: it did, or there was none."""

    url: str
    state: WebhookState = "pending"
    tries: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    id: str
    model: str
    client: str
    state: State
    attempt: int
    cost: int
    spec: str  # a JobSpec as text, which the queue never reads
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    created_at: float  # unix seconds, as all times here
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    position: int | None = None
    start_by: float | None = None  # if no worker has claimed it by then, it fails
    eta_seconds: float | None = None  # until it ends, as far as the last jobs tell; None: unknown, or it has ended
    webhook: Webhook | None = None
    request_id: str = ""  # as in NewJob


@dataclass(slots=True, kw_only=True)
class Event:
    id: str  # "<attempt>-<sequence>": the stream id and the SSE id alike
    name: str
    data: bytes = b"{}"  # JSON, from the worker to the client as it is
    position: EventId = field(init=False)
    # Of api/sse.py, by the root of its URLs: made once for all watchers.
    frames: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.position = parse_event_id(self.id)

    @property
    def terminal(self) -> bool:
        return self.name in TERMINAL_EVENTS

    def json(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.data)
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLoad:
    queued: int
    running: int


def encode_event(data: Mapping[str, Any]) -> bytes:
    """JSON in UTF-8, as Redis stores it and clients receive it. Compact: publish.lua looks for `"image_index":0`."""
    return _ENCODER.encode(data).encode(errors="replace")  # half a surrogate pair has no UTF-8


def parse_event_id(text: str | None) -> EventId:
    """`"2-17"` → (2, 17); anything that is no event id means "from the beginning": (0, 0)."""
    match = re.fullmatch(r"(\d{1,20})-(\d{1,20})", text or "")
    if match is None:
        return ZERO
    attempt, sequence = int(match[1]), int(match[2])
    return (attempt, sequence) if max(attempt, sequence) < 2**64 else ZERO


def format_event_id(event_id: EventId) -> str:
    return f"{event_id[0]}-{event_id[1]}"

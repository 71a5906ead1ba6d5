"""The events of a job."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.client.jobs import Image, JobError, JobWarning, images_of, warnings_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """id: after it a stream can be resumed (`events(job, after=id)`). data: as the server sent it. An event of a name
    that this version does not know is of this class itself."""

    id: str
    name: str
    data: Mapping[str, Any] = field(repr=False)

    @property
    def last(self) -> bool:
        """Whether it ends the stream: the job has ended."""
        return self.name in LAST


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued(Event):
    """The job waits. position: jobs ahead of it. It comes again if a worker was lost or stops."""

    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """A worker begins. attempt: from 1; a later attempt draws every picture again, except those in `kept`. grid: rows
    and columns of tokens. known: how many of them are given, not drawn."""

    attempt: int
    images: int
    grid: tuple[int, int]
    steps: int
    known: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens(Event):
    """Drawn tokens of a picture. positions: row-major from 0. step: counts from 1. n_done, n_total: tokens."""

    image_index: int
    step: int
    steps: int
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    n_done: int
    n_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview(Event):
    """A picture as it is so far. file: of the named format."""

    image_index: int
    step: int
    format: str
    file: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(Event):
    images: tuple[Image, ...]
    warnings: tuple[JobWarning, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    error: JobError


@dataclass(frozen=True, slots=True, kw_only=True)
class Canceled(Event):
    pass


LAST = frozenset({"completed", "failed", "canceled"})


def event_of(id: str, name: str, data: Mapping[str, Any]) -> Event:
    common: dict[str, Any] = {"id": id, "name": name, "data": data}
    match name:
        case "queued":
            return Queued(**common, position=data["position"])
        case "started":
            rows, cols = data["grid"]
            told = {name: data[name] for name in ("attempt", "images", "steps", "known")}
            return Started(**common, **told, grid=(rows, cols))
        case "tokens":
            told = {name: data[name] for name in ("image_index", "step", "steps", "n_done", "n_total")}
            return Tokens(**common, **told, positions=tuple(data["positions"]), tokens=tuple(data["tokens"]))
        case "preview":
            told = {name: data[name] for name in ("image_index", "step", "format")}
            return Preview(**common, **told, file=base64.b64decode(data["b64_json"]))
        case "completed":
            return Completed(**common, images=images_of(data), warnings=warnings_of(data))
        case "failed":
            return Failed(**common, error=JobError.of(data["error"]))
        case "canceled":
            return Canceled(**common)
        case _:
            return Event(**common)

"""What the server tells of jobs and models. Fields that this version does not know are in `data`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from service.client.errors import APIError

Status = Literal["queued", "running", "succeeded", "failed", "canceled"]
Task = Literal["generate", "expand", "inpaint", "outpaint", "vary"]

FINAL: frozenset[str] = frozenset({"succeeded", "failed", "canceled"})


@dataclass(frozen=True, slots=True)
class Image:
    """A finished picture. seed: draws it alone, with n=1. width, height: pixels."""

    url: str
    seed: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class JobError:
    """field: of the request, where that is at fault."""

    code: str
    message: str
    field: str | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> JobError:
        return cls(data["code"], data["message"], data.get("field"))


@dataclass(frozen=True, slots=True)
class JobWarning:
    """What was done otherwise than the request says. field: of the request."""

    field: str
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it was when the server was asked. position: jobs ahead of it, None when it is not queued. eta_seconds:
    until it ends, None where nothing is known. request: with every default filled in; sent again, it draws the same
    pictures. timings: seconds. data: the whole object as the server sent it."""

    id: str
    task: Task
    status: Status
    model: str
    class_name: str | None
    position: int | None
    eta_seconds: float | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    width: int
    height: int
    images: tuple[Image, ...]
    error: JobError | None
    warnings: tuple[JobWarning, ...]
    request: Mapping[str, Any]
    timings: Mapping[str, float]
    usage: Mapping[str, int]
    data: Mapping[str, Any] = field(repr=False)

    @property
    def ended(self) -> bool:
        return self.status in FINAL

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Job:
        error = data["error"]
        return cls(
            id=data["id"],
            task=data["task"],
            status=data["status"],
            model=data["model"],
            class_name=data["class_name"],
            position=data["position"],
            eta_seconds=data["eta_seconds"],
            created_at=datetime.fromisoformat(data["created_at"]),
            started_at=_moment(data["started_at"]),
            finished_at=_moment(data["finished_at"]),
            expires_at=_moment(data["expires_at"]),
            width=data["width"],
            height=data["height"],
            images=images_of(data),
            error=None if error is None else JobError.of(error),
            warnings=warnings_of(data),
            request=data["request"],
            timings=data["timings"],
            usage=data["usage"],
            data=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that the server serves. conditioning: whether a request names a class or says a prompt. grid: rows and
    columns of tokens. width, height: pixels. settings: the sampling fields that it takes. task_defaults: by task, the
    defaults that differ. example_prompts: some that it draws well."""

    id: str
    family: str
    conditioning: Literal["class", "text"]
    description: str
    licence: str
    tasks: tuple[str, ...]
    grid: tuple[int, int]
    width: int
    height: int
    codebook_size: int
    classes: int
    settings: tuple[str, ...]
    steps: int | None
    defaults: Mapping[str, Any]
    task_defaults: Mapping[str, Mapping[str, Any]]
    example_prompts: tuple[str, ...]
    data: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Model:
        rows, cols = data["grid"]
        same = ("id", "family", "conditioning", "description", "licence", "width", "height", "codebook_size", "classes")
        return cls(
            **{name: data[name] for name in (*same, "steps", "defaults")},
            tasks=tuple(data["tasks"]),
            settings=tuple(data["settings"]),
            task_defaults=data.get("task_defaults", {}),  # older servers send none
            example_prompts=tuple(data.get("example_prompts", ())),  # likewise
            grid=(rows, cols),
            data=data,
        )


@dataclass(frozen=True, slots=True)
class Palette:
    """A colour patch for every token. rgb: uint8 [codes][height][width][3]."""

    codes: int
    height: int
    width: int
    rgb: bytes = field(repr=False)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Palette:
        return cls(data["codes"], data["height"], data["width"], base64.b64decode(data["rgb"]))


class JobFailedError(APIError):
    """The server accepted the job and could not draw it."""

    def __init__(self, job: Job) -> None:
        code, message = ("error", "no reason was given") if job.error is None else (job.error.code, job.error.message)
        super().__init__(f"job {job.id} failed: {message}")
        self.job = job
        self.code = code


class JobCanceledError(APIError):
    """The job was cancelled before it was drawn."""

    code = "canceled"

    def __init__(self, job: Job) -> None:
        super().__init__(f"job {job.id} was cancelled")
        self.job = job


def succeeded(job: Job) -> Job:
    """A job that has ended. Raises JobFailedError, JobCanceledError."""
    if job.status == "failed":
        raise JobFailedError(job)
    if job.status == "canceled":
        raise JobCanceledError(job)
    return job


def images_of(data: Mapping[str, Any]) -> tuple[Image, ...]:
    return tuple(Image(one["url"], one["seed"], one["width"], one["height"]) for one in data["images"])


def warnings_of(data: Mapping[str, Any]) -> tuple[JobWarning, ...]:
    return tuple(JobWarning(one["field"], one["code"], one["message"]) for one in data["warnings"])


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)

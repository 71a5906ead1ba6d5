"""Jobs and events as clients see them: the queue's words, with URLs in place of blob names."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request

from service.queue import Event, Job
from service.schemas import JobError, JobImage, JobObject, JobUrls, ResolvedRequest


def root_of(request: Request) -> str:
    """The path that a proxy strips."""
    root: str = request.scope.get("root_path", "")
    return root


def job_url(root: str, job_id: str) -> str:
    return f"{root}/v1/jobs/{job_id}"


def job_object(job: Job, root: str) -> JobObject:
    """root: the path that a proxy strips, in front of every URL."""
    result, payload, own = job.result or {}, job.payload, job_url(root, job.id)
    height, width = payload["size"]
    request = payload | {"class": payload["class_label"]}
    if payload["task"] != "inpaint":
        del request["feather"]
    return JobObject(
        id=job.id,
        task=payload["task"],
        status=job.state,
        position=job.position,
        created_at=_moment(job.created_at) or datetime.now(UTC),
        started_at=_moment(job.started_at),
        finished_at=_moment(job.finished_at),
        expires_at=_moment(job.expires_at),
        model=job.model,
        class_name=payload["class_name"],
        request=ResolvedRequest.model_validate(request),
        width=width,
        height=height,
        padding=payload.get("padding"),
        fork=payload.get("fork"),
        images=[JobImage(**image) for image in _images(result.get("images", ()), own)],
        mask_tokens=result.get("token_mask"),
        error=None if job.error is None else JobError(**job.error),
        urls=JobUrls(self=own, events=f"{own}/events", cancel=own),
        timings=result.get("timings", {}),
        usage=result.get("usage", {}),
    )


def event_data(event: Event, job_id: str, root: str) -> Mapping[str, Any]:
    if event.name == "queued":
        # Who follows a POST by its events alone learns here where to resume.
        return event.data | {"job": job_id, "events": f"{job_url(root, job_id)}/events"}
    if event.name == "completed":
        return event.data | {"images": _images(event.data["images"], job_url(root, job_id))}
    return event.data


def expired(job_id: str, ttl_seconds: float) -> bool:
    """Whether a job that is not there was there once: its id carries when it was made."""
    made = made_at(job_id)
    return made is not None and made <= time.time() and made + ttl_seconds < time.time()


def made_at(job_id: str) -> float | None:
    """Unix seconds, from an id made by `new_job_id`."""
    stamp, dash, _ = job_id.partition("-")
    if not dash or len(stamp) != 8 or not set(stamp) <= set("0123456789abcdef"):
        return None
    return float(int(stamp, 16))


def _images(images: Any, own: str) -> list[dict[str, Any]]:
    return [
        {
            "url": f"{own}/images/{image['index']}",
            "seed": image["seed"],
            "width": image["width"],
            "height": image["height"],
        }
        for image in images
    ]


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

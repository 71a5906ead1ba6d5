"""From a job to the kind of answer that its client asked for.

Jobs and events as clients see them: the queue's words, with URLs in place of blob names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from service.api.job_access import cancel_job, picture_response, until_finished
from service.api.negotiation import EVENTS, FORMATS, JSON, names, negotiate, prefer_wait
from service.api.schemas import JobError, JobImage, JobObject, JobUrls, ResolvedRequest
from service.api.sse import EventStreamResponse, encode, frame, relay
from service.errors import Problem, draining
from service.jobs import FINAL_STATES, Event, Job, cancelled
from service.jobs.messages import encode_event
from service.services import Services
from service.tasks.images import MEDIA_TYPES, Format

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """How a client wants its answer."""

    kind: str  # JSON, EVENTS, or a picture's media type
    wait: float | None
    cancel_on_disconnect: bool

    @classmethod
    def of(
        cls,
        accept: str | None,
        prefer: str | None,
        *,
        n: int,
        format: Format,
        limit: float,
        cancel_on_disconnect: bool,
    ) -> Wish:
        """From the two headers, how many pictures in which format, and the longest wait. Raises Problem where it can't
        be met."""
        kind = negotiate(accept, (JSON, EVENTS, MEDIA_TYPES[format], *FORMATS))
        if kind is None:
            offers = ", ".join((JSON, EVENTS, *FORMATS))
            raise Problem(406, "not_acceptable", f"the answer can be one of {offers}")
        if kind in FORMATS and n > 1:
            raise Problem.field("n", "must be 1 where the answer is the picture itself", "one_picture")
        if kind == EVENTS and not names(accept, EVENTS):
            kind = JSON
        return cls(kind, prefer_wait(prefer, limit), cancel_on_disconnect)


async def answer(services: Services, request: Request, job: Job, wish: Wish) -> Response:
    root = root_of(request)
    headers = {"Location": job_url(root, job.id), "X-Job-ID": job.id}
    if wish.kind == EVENTS:
        abandoned = partial(cancel_job, services, job) if wish.cancel_on_disconnect else None
        return event_stream(services, job.id, root, after=None, headers=headers, abandoned=abandoned)
    if wish.kind in FORMATS:
        limit = services.settings.picture_wait if wish.wait is None else wish.wait
        job = await _awaited(services, request, job, limit, wish)
        if job.state not in FINAL_STATES and services.lifecycle.closing.is_set():
            going = f"the job goes on elsewhere, its picture will be at {headers['Location']}"
            raise draining(services.settings.retry_after, going, headers)
        if job.state not in FINAL_STATES:
            detail = f"not done within {limit:g} s; the job goes on, its picture will be at {headers['Location']}"
            raise Problem(504, "not_done_yet", detail, headers={**headers, "Retry-After": "1"})
        try:
            response = await picture_response(services, job, 0, FORMATS[wish.kind])
        except Problem as problem:
            # Who asked for the picture in one go gets a failure as a server's error.
            problem.status = 500 if job.state == "failed" else problem.status
            problem.headers |= headers
            raise
        response.headers.update(headers)
        return response
    if wish.wait is not None:
        job = await _awaited(services, request, job, wish.wait, wish)
        headers["Preference-Applied"] = f"wait={wish.wait:g}"
    status = 200 if job.state in FINAL_STATES else 202
    body = job_object(job, root).model_dump(mode="json", by_alias=True)
    return JSONResponse(body, status_code=status, headers=headers)


async def _awaited(services: Services, request: Request, job: Job, seconds: float, wish: Wish) -> Job:
    """As until_finished, and no longer than somebody waits for the answer."""
    left = asyncio.ensure_future(_disconnected(request))
    try:
        job = await until_finished(services, job, seconds, left)
        if left.done() and wish.cancel_on_disconnect:
            await cancel_job(services, job)
    finally:
        await cancelled(left)
    return job


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def event_stream(
    services: Services,
    id: str,
    root: str,
    *,
    after: str | None,
    headers: dict[str, str] | None = None,
    abandoned: Callable[[], Awaitable[object]] | None = None,
) -> EventStreamResponse:
    ending = asyncio.Event()
    life = services.settings.stream_life
    frames = relay(
        services.hub.follow(id, after),
        partial(event_frame, job_id=id, root=root),
        heartbeat=services.settings.heartbeat,
        life=life,
        ending=ending,
        streams=services.metrics.http_streams,
    )
    return EventStreamResponse(frames, headers, life=life, ending=ending, abandoned=abandoned)


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


def event_frame(event: Event, job_id: str, root: str) -> bytes:
    """The worker's bytes as they are, but for two events: they gain URLs, which begin with this request's root."""
    url = job_url(root, job_id)
    if event.name == "queued":
        # A client that reads only the event stream of its POST learns here where to resume.
        data = event.json() | {"job": job_id, "events": f"{url}/events"}
    elif event.name == "completed":
        data = event.json()
        data["images"] = _images(data["images"], url)
    else:
        return frame(event)
    return encode(event.name, encode_event(data), event.id)


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

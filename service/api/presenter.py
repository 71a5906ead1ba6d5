"""Presents jobs and events as the client asked for them: JSON, an event stream, or the picture itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from service.api.dependencies import disconnected
from service.api.job_access import (
    cancel_job,
    picture_response,
    read_result,
    read_spec,
    status_without_picture,
    until_finished,
)
from service.api.merged_watch import JobEvent, MergedWatch
from service.api.negotiation import EVENTS, FORMATS, ResponsePreference
from service.api.schemas import (
    Fork,
    JobError,
    JobImage,
    JobObject,
    JobUrls,
    JobWebhook,
    ListedJobObject,
    PaddingObject,
    ResolvedRequest,
    Task,
)
from service.api.sse import EventStreamResponse, encode, ended_early
from service.errors import Problem, draining
from service.jobs import FINAL_STATES, Event, Gone, Job, ListedJob, WatchEnded, cancelled
from service.jobs.messages import encode_event
from service.jobs.result import JobResult
from service.jobs.spec import JobSpec, OutpaintCompose
from service.services import Services

log = logging.getLogger(__name__)


async def present(services: Services, request: Request, job: Job, preference: ResponsePreference) -> Response:
    root = root_of(request)
    headers = {"Location": job_url(root, job.id), "X-Job-ID": job.id}
    if preference.kind == EVENTS:
        abandoned = partial(cancel_job, services, job) if preference.cancel_on_disconnect else None
        return event_stream(services, job.id, root, after=None, headers=headers, abandoned=abandoned)
    if preference.kind in FORMATS:
        limit = services.settings.picture_wait if preference.wait is None else preference.wait
        job = await awaited(services, request, job, limit, cancel_on_disconnect=preference.cancel_on_disconnect)
        if job.state not in FINAL_STATES and services.lifecycle.closing.is_set():
            going = f"the job goes on elsewhere, its picture will be at {headers['Location']}"
            raise draining(services.settings.retry_after, going, headers)
        if job.state not in FINAL_STATES:
            detail = f"not done within {limit:g} s; the job goes on, its picture will be at {headers['Location']}"
            raise Problem(504, "not_done_yet", detail, headers={**headers, "Retry-After": "1"})
        try:
            response = await picture_response(services, request, job, 0, FORMATS[preference.kind])
        except Problem as problem:
            problem.status = status_without_picture(job, problem)
            problem.headers |= headers
            raise
        response.headers.update(headers)
        return response
    if preference.wait is not None:
        job = await awaited(
            services, request, job, preference.wait, cancel_on_disconnect=preference.cancel_on_disconnect
        )
        headers["Preference-Applied"] = f"wait={preference.wait:g}"
    status = 200 if job.state in FINAL_STATES else 202
    body = job_object(job, root).model_dump(mode="json", by_alias=True)
    return JSONResponse(body, status_code=status, headers=headers)


async def awaited(services: Services, request: Request, job: Job, seconds: float, *, cancel_on_disconnect: bool) -> Job:
    """As until_finished, and only while the client is connected."""
    left = asyncio.ensure_future(disconnected(request))
    try:
        job = await until_finished(services, job, seconds, left)
        if left.done() and cancel_on_disconnect:
            await cancel_job(services, job)
    finally:
        await cancelled(left)
    return job


def event_stream(
    services: Services,
    id: str,
    root: str,
    *,
    after: str | None,
    headers: dict[str, str] | None = None,
    abandoned: Callable[[], Awaitable[object]] | None = None,
) -> EventStreamResponse[Event]:
    settings = services.settings
    return EventStreamResponse(
        services.hub.follow(id, after),
        partial(event_frame, job_id=id, root=root),
        headers,
        heartbeat=settings.heartbeat,
        life=settings.stream_life,
        streams=services.metrics.http_streams,
        abandoned=abandoned,
    )


def merged_event_stream(
    services: Services, after: Mapping[str, str | None], gone: Mapping[str, Gone], root: str
) -> EventStreamResponse[JobEvent]:
    """after: of each job, the event that the client saw last. gone: jobs that can't be followed, and why."""
    settings = services.settings
    return EventStreamResponse(
        MergedWatch({id: services.hub.follow(id, last) for id, last in after.items()}, gone),
        partial(_merged_frame, root=root),
        heartbeat=settings.heartbeat,
        life=settings.stream_life,
        streams=services.metrics.http_streams,
    )


def _merged_frame(each: JobEvent, root: str) -> bytes:
    """As in the job's own stream, with the job's id in front of the event's. An event without an id names the job."""
    if isinstance(each.event, WatchEnded):
        return ended_early(each.event, job=each.job_id)
    frame = event_frame(each.event, each.job_id, root)
    head, _, id = frame.rpartition(b"id: ")
    return b"%bid: %b@%b" % (head, each.job_id.encode(), id)


def root_of(request: Request) -> str:
    """The path that a proxy strips."""
    root: str = request.scope.get("root_path", "")
    return root


def job_url(root: str, job_id: str) -> str:
    return f"{root}/v1/jobs/{job_id}"


def job_object(job: Job, root: str) -> JobObject:
    """root: the path that a proxy strips, in front of every URL."""
    spec, result, own = read_spec(job), read_result(job), job_url(root, job.id)
    height, width = spec.size
    succeeded = job.state == "succeeded"
    return JobObject(
        id=job.id,
        task=cast(Task, spec.task),
        status=job.state,
        position=job.position,
        eta_seconds=None if job.eta_seconds is None else round(job.eta_seconds, 3),
        created_at=_moment(job.created_at) or datetime.now(UTC),
        started_at=_moment(job.started_at),
        finished_at=_moment(job.finished_at),
        expires_at=_moment(job.expires_at),
        start_by=_moment(job.start_by),
        model=job.model,
        class_name=spec.class_name,
        request=_resolved(spec),
        width=width,
        height=height,
        padding=_padding(spec),
        fork=_fork(spec),
        images=[JobImage(**_image(own, **image.summary())) for image in (result.images if result else ())],
        mask_tokens=(~spec.fixed_cells).astype(int).tolist() if succeeded and spec.picture_box else None,
        error=None if job.error is None else JobError(**job.error),
        urls=_urls(own),
        timings=_timings(job, result),
        usage=result.usage if result else {},
        warnings=list(result.warnings) if result else [],
        webhook=_webhook(job),
    )


def listed_job(job: ListedJob, root: str) -> ListedJobObject:
    """root: as for `job_object`."""
    own, about = job_url(root, job.id), job.about
    drawn = about.get("n", 0) if job.state == "succeeded" else 0
    return ListedJobObject(
        id=job.id,
        task=about.get("task"),
        status=job.state,
        position=job.position,
        eta_seconds=None if job.eta_seconds is None else round(job.eta_seconds, 3),
        created_at=_moment(job.created_at) or datetime.now(UTC),
        started_at=_moment(job.started_at),
        finished_at=_moment(job.finished_at),
        expires_at=_moment(job.expires_at),
        model=job.model,
        class_name=about.get("class_name"),
        prompt=about.get("prompt"),
        n=about.get("n"),
        width=about.get("width"),
        height=about.get("height"),
        images=[f"{own}/images/{index}" for index in range(drawn)],
        error=None if job.error is None else JobError(**job.error),
        urls=_urls(own),
    )


def _urls(own: str) -> JobUrls:
    return JobUrls(self=own, events=f"{own}/events", cancel=own)


def _timings(job: Job, result: JobResult | None) -> dict[str, float]:
    """The stages that are over: those that the worker timed, and those that the queue knows of any job."""
    known: dict[str, float] = {}
    if job.started_at is not None and job.attempt == 1:
        known["queue_seconds"] = job.started_at - job.created_at
    if job.finished_at is not None:
        known["total_seconds"] = job.finished_at - job.created_at
    return known | (result.timings if result else {})


def _webhook(job: Job) -> JobWebhook | None:
    return None if job.webhook is None else JobWebhook(**asdict(job.webhook))


def _resolved(spec: JobSpec) -> ResolvedRequest:
    output = spec.output
    return ResolvedRequest.model_validate(
        {
            "model": spec.model,
            "class": spec.class_label,
            "prompt": spec.prompt,
            "negative_prompt": spec.negative_prompt,
            "n": spec.n,
            "seed": spec.seeds[0],
            **spec.sampling.model_dump(mode="json"),
            "previews": output.previews,
            "format": output.format,
            "quality": output.quality,
            **spec.request,
        }
    )


def _padding(spec: JobSpec) -> PaddingObject | None:
    if not isinstance(spec.compose, OutpaintCompose):
        return None
    return PaddingObject(**asdict(spec.compose.geometry.padding))


def _fork(spec: JobSpec) -> Fork | None:
    fork = spec.fork
    return None if fork is None else Fork(job=fork.job, image=fork.image, step=fork.step)


def event_frame(event: Event, job_id: str, root: str) -> bytes:
    """The worker's bytes as they are, but for two events: they gain URLs, which begin with this request's root. Made
    once for all readers with the same root."""
    made = event.frames.get(root)
    if made is None:
        made = event.frames[root] = encode(event.name, _event_data(event, job_url(root, job_id)), event.id)
    return made


def _event_data(event: Event, url: str) -> bytes:
    try:
        if event.name == "queued":
            # A client that reads only the event stream of its POST learns here where to resume.
            return encode_event(event.json() | {"job": url.rpartition("/")[2], "events": f"{url}/events"})
        if event.name == "completed":
            data = event.json()
            return encode_event(data | {"images": [_image(url, **image) for image in data["images"]]})
    except (ValueError, TypeError, KeyError):
        log.exception("event %s of %s can't be read: its readers get it without data", event.id, url)
        return b"{}"
    return event.data


def _image(own: str, *, index: int, **summary: Any) -> dict[str, Any]:
    """An image's summary with its URL in place of its index."""
    return {"url": f"{own}/images/{index}", **summary}


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def webhook_body(job: Job, root: str) -> bytes:
    """What a webhook tells of a job that has ended; the same in each try. A job that another version of the service
    wrote is told by its id and status."""
    try:
        data = job_object(job, root).model_dump(mode="json", by_alias=True, exclude={"webhook"})
    except Problem:
        data = {"id": job.id, "status": job.state}
    ended = (_moment(job.finished_at) or datetime.now(UTC)).isoformat().replace("+00:00", "Z")
    return encode_event({"type": f"job.{job.state}", "timestamp": ended, "data": data})

"""From a job to the kind of answer that its client asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from redis.exceptions import RedisError

from service.api.cancelling import cancel_job
from service.api.negotiation import EVENTS, FORMATS, JSON, names, negotiate, prefer_wait
from service.api.pictures import picture_response
from service.api.services import Services
from service.api.view import event_data, job_object, job_url, root_of
from service.images import MEDIA_TYPES, Format
from service.problems import Problem, draining
from service.queue import FINAL_STATES, Event, Gone, HubClosed, Job, Lagged, cancelled
from service.sse import EventStreamResponse, relay

log = logging.getLogger(__name__)

WATCH_AGAIN_SECONDS = 0.5


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


async def until_finished(services: Services, job: Job, seconds: float, left: asyncio.Future[None] | None = None) -> Job:
    """The job as it is when it ends, or after so many seconds, or when this server closes, or nobody is left."""
    if job.state in FINAL_STATES:
        return job

    async def watched() -> None:
        after = None
        while True:
            try:
                async for event in services.hub.watch(job.id, after):
                    after = event.id
                return  # that was the terminal event
            except (Gone, HubClosed):
                return
            except (Lagged, RedisError, OSError) as error:
                log.warning("waiting for job %s: %s; watching again", job.id, error)
                await asyncio.sleep(WATCH_AGAIN_SECONDS)

    tasks: set[asyncio.Future[Any]] = {
        asyncio.ensure_future(watched()),
        asyncio.ensure_future(services.lifecycle.closing.wait()),
    }
    try:
        await asyncio.wait(tasks | {left} if left else tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancelled(*tasks)
    return await services.queue.job(job.id) or job


def event_stream(
    services: Services,
    id: str,
    root: str,
    *,
    after: str | None,
    headers: dict[str, str] | None = None,
    abandoned: Callable[[], Awaitable[object]] | None = None,
) -> EventStreamResponse:
    def render(event: Event) -> Any:
        return event_data(event, id, root)

    ending = asyncio.Event()
    frames = relay(
        services.hub.watch(id, after),
        render,
        heartbeat=services.settings.heartbeat,
        life=services.settings.stream_life,
        closing=services.lifecycle.closing,
        ending=ending,
        streams=services.metrics.http_streams,
    )
    life = services.settings.stream_life
    return EventStreamResponse(frames, headers, life=life, ending=ending, abandoned=abandoned)

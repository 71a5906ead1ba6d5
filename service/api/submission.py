"""From a checked request to a job, and to the kind of answer that its client asked for."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.responses import JSONResponse, Response
from redis.exceptions import RedisError

from service.api.negotiation import EVENTS, FORMATS, JSON, names, negotiate, prefer_wait
from service.api.pictures import picture_response
from service.api.services import Services
from service.api.view import event_data, job_object, job_url
from service.images import MEDIA_TYPES
from service.problems import FieldError, Problem
from service.queue import (
    FINAL_STATES,
    BlobStoreFull,
    Event,
    Gone,
    HubClosed,
    Job,
    Lagged,
    NewJob,
    QueueFull,
    cancelled,
)
from service.schemas import GenerateRequest
from service.sse import EventStreamResponse, relay

log = logging.getLogger(__name__)

CLIENT = "local"
"""Whose job it is. There are no keys yet, so there is one client."""

RESULTS_SHARE = 0.25
"""Of the blob store's budget, for the pictures of one job."""

WATCH_AGAIN_SECONDS = 0.5

_KEY = re.compile(r"[\x21-\x7e]{1,255}")

IdempotencyKey = Annotated[
    str | None, Header(description="The same key again answers with the same job, instead of drawing anew")
]
Prefer = Annotated[str | None, Header(description="`wait=N`: answer when the job is done, within N seconds")]


@dataclass(frozen=True, slots=True)
class Wish:
    """How a client wants its answer."""

    kind: str  # JSON, EVENTS, or a picture's media type
    wait: float | None

    @classmethod
    def of(cls, accept: str | None, prefer: str | None, fields: GenerateRequest, limit: float) -> Wish:
        """From the two headers, the request and the longest wait. Raises Problem where it can't be met."""
        kind = negotiate(accept, (JSON, EVENTS, MEDIA_TYPES[fields.format], *FORMATS))
        if kind is None:
            offers = ", ".join((JSON, EVENTS, *FORMATS))
            raise Problem(406, "not_acceptable", f"the answer can be one of {offers}")
        if kind in FORMATS and fields.n > 1:
            raise Problem.field("n", "must be 1 where the answer is the picture itself", "one_picture")
        if kind == EVENTS and not names(accept, EVENTS):
            kind = JSON
        return cls(kind, prefer_wait(prefer, limit))


def job_id(task: str, key: str | None) -> str:
    """With an idempotency key, the same id for the same key. Else a new one that nobody can guess and that tells
    when it was made."""
    if key is None:
        return f"{int(time.time()):08x}-{secrets.token_hex(12)}"
    if not _KEY.fullmatch(key):
        error = FieldError("Idempotency-Key", "1 to 255 visible ASCII characters", place="header")
        raise Problem(400, "invalid", "Idempotency-Key: 1 to 255 visible ASCII characters", errors=[error])
    return hashlib.sha256(f"{CLIENT}\0{task}\0{key}".encode()).hexdigest()[:32]


def take_no_more(services: Services) -> Problem:
    """A server that drains sends new work elsewhere."""
    headers = {"Retry-After": str(services.settings.retry_after), "Connection": "close"}
    return Problem(503, "draining", "this server is shutting down", headers=headers)


@contextlib.contextmanager
def refusals_counted(services: Services, task: str) -> Iterator[None]:
    """Good requests that the service had no place for; bad ones show in the HTTP series."""
    try:
        yield
    except Problem as problem:
        if problem.status == 503:
            services.metrics.requests.labels(task, problem.code).inc()
        raise


async def known(services: Services, id: str, digest: str) -> Job | None:
    """The job that this idempotency key already made."""
    job = await services.queue.job(id)
    return None if job is None else _same(job, digest)


def _same(job: Job, digest: str) -> Job:
    if job.payload.get("digest") != digest:
        detail = "Idempotency-Key: another request was sent with this key"
        error = FieldError("Idempotency-Key", "another request was sent with this key", place="header")
        raise Problem(422, "key_reused", detail, errors=[error])
    return job


def check_results_fit(services: Services, n: int, height: int, width: int) -> None:
    """One job's pictures may take a share of the blob store, no more. Raises Problem.

    Nobody knows before how well a picture packs; as PNG it hardly ever takes more than its pixels, 3 bytes each.
    """
    limit = int(services.blobs.limits.max_bytes * RESULTS_SHARE)
    picture = height * width * 3
    if picture > limit:
        message = f"a result of {width} x {height} pixels may take {picture} bytes; this server has {limit} for a job"
        raise Problem.field("image", message, "too_large", status=413)
    if n * picture > limit:
        message = f"{n} results of {width} x {height} pixels may take {n * picture} bytes; this server has {limit} "
        raise Problem.field("n", f"{message}for a job: at most {limit // picture} fit", "too_large")


async def submit(services: Services, id: str, payload: dict[str, Any], cost: int, uploads: dict[str, bytes]) -> Job:
    """Puts uploads into the blob store and the job, which names them, into the queue. Whoever else submits the same id
    has uploads of other names; who comes second gets the first one's job, if it is for the same request.

    Raises Problem when there is no room, or when the id is another request's.
    """
    retry = {"Retry-After": str(services.settings.retry_after)}
    token = secrets.token_hex(8)
    blobs = {name: f"{id}/{token}/{name}" for name in uploads}
    payload = payload | blobs
    new = NewJob(id=id, model=payload["model"], client=CLIENT, cost=cost, payload=payload, blobs=tuple(blobs.values()))
    try:
        for name, data in uploads.items():
            await services.blobs.put(blobs[name], data)
        await services.queue.submit(new)
    except (QueueFull, BlobStoreFull) as full:
        await _discard(services, blobs)
        code = "queue_full" if isinstance(full, QueueFull) else "storage_full"
        raise Problem(503, code, f"there is no room at the moment: {full}", headers=retry) from None
    # What else may go wrong leaves uploads that no job holds, and these do not live long.
    job = await services.queue.job(id)
    if job is None:
        raise Problem(503, "queue_unavailable", "the queue lost the job; send it again", headers=retry)
    # Whether it is ours, the job tells better than the answer to a submission that may have been sent twice.
    if any(job.payload[name] != blob for name, blob in blobs.items()):
        await _discard(services, blobs)
    return _same(job, payload["digest"])


async def _discard(services: Services, blobs: dict[str, str]) -> None:
    for blob in blobs.values():
        await services.blobs.delete(blob)


async def answer(services: Services, request: Request, job: Job, wish: Wish) -> Response:
    root = request.scope.get("root_path", "")
    headers = {"Location": job_url(root, job.id), "X-Job-ID": job.id}
    if wish.kind == EVENTS:
        return event_stream(services, job.id, root, after=None, headers=headers)
    if wish.kind in FORMATS:
        limit = services.settings.picture_wait if wish.wait is None else wish.wait
        job = await until_finished(services, job, limit)
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
        job = await until_finished(services, job, wish.wait)
        headers["Preference-Applied"] = f"wait={wish.wait:g}"
    status = 200 if job.state in FINAL_STATES else 202
    body = job_object(job, root).model_dump(mode="json", by_alias=True)
    return JSONResponse(body, status_code=status, headers=headers)


async def until_finished(services: Services, job: Job, seconds: float) -> Job:
    """The job as it is when it ends, or after so many seconds, or when this server closes."""
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

    tasks = {asyncio.ensure_future(watched()), asyncio.ensure_future(services.lifecycle.closing.wait())}
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancelled(*tasks)
    return await services.queue.job(job.id) or job


def event_stream(
    services: Services, id: str, root: str, *, after: str | None, headers: dict[str, str] | None = None
) -> EventStreamResponse:
    def render(event: Event) -> Any:
        return event_data(event, id, root)

    frames = relay(
        services.hub.watch(id, after),
        render,
        heartbeat=services.settings.heartbeat,
        closing=services.lifecycle.closing,
        streams=services.metrics.http_streams,
    )
    return EventStreamResponse(frames, headers)

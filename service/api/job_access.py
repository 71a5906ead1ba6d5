"""Access to jobs: find one and its pictures, wait for its end, cancel it, check that there is room for another."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from pydantic import ValidationError
from redis.exceptions import RedisError

from service import logs
from service.api.dependencies import ServicesDep, in_thread
from service.auth.keys import Client
from service.auth.sessions import link_to
from service.errors import FieldError, Problem, draining
from service.jobs import (
    FINAL_STATES,
    BlobStoreFull,
    Job,
    JobHead,
    QueueFull,
    QuotaFull,
    UploadQuotaFull,
    cancelled,
)
from service.jobs.messages import Canceled
from service.jobs.result import JobResult, StoredImage
from service.jobs.spec import InvalidSpec, JobSpec, UnsupportedVersion, decode, task_of
from service.services import Services
from service.tasks.pictures import images
from service.tasks.pictures.images import MEDIA_TYPES, Format

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 10.0
AFTER_ERROR_SECONDS = 0.5


async def find_job(services: Services, client: Client, id: str) -> Job:
    """Raises Problem: 404 if there is no such job, 410 if it has expired. Another client's job is a 404, too."""
    job = await services.queue.job(id)
    if job is not None and job.client == client.name:
        logs.tell(job_id=job.id, model=job.model)
        logs.tell_if_missing(task=task_of(job.spec))  # else it is another job's, such as a source
        return job
    raise _absent(services, id)


async def find_head(services: Services, client: Client, id: str) -> JobHead:
    """As find_job, for less."""
    head = await services.queue.head(id)
    if head is not None and head.client == client.name:
        logs.tell(job_id=head.id, model=head.model)
        logs.tell_if_missing(task=head.task)
        return head
    raise _absent(services, id)


def _absent(services: Services, id: str) -> Problem:
    if expired(id, services.queue.config.result_ttl_seconds):
        return Problem(410, "expired", "the job has expired: it and its pictures are no longer kept")
    return Problem(404, "unknown_job", "there is no job with this id")


def read_spec(job: Job) -> JobSpec:
    """Raises Problem where another version of the service wrote the job, or nothing that is a job."""
    try:
        return decode(job.spec)
    except UnsupportedVersion as error:
        raise Problem(409, "unsupported_job_version", f"{error}; ask a server of the job's version") from None
    except InvalidSpec:
        raise _unreadable(job) from None


def read_result(job: Job) -> JobResult | None:
    """None: the job has not succeeded (yet). Raises Problem, as read_spec."""
    try:
        return None if job.result is None else JobResult.model_validate(job.result)
    except ValidationError:
        raise _unreadable(job) from None


def _unreadable(job: Job) -> Problem:
    """To be called where the reason is handled, for the log."""
    log.exception("job %s can't be read", job.id)
    return Problem(409, "invalid_payload", "the stored job can't be read; the server's log says why")


async def not_draining(services: ServicesDep) -> None:
    """A dependency of routes that make jobs. Raises Problem."""
    if services.lifecycle.draining:
        raise draining(services.settings.retry_after)


async def find_picture(services: Services, job: Job, index: int) -> tuple[StoredImage, bytes]:
    """The picture's entry in the job's result, and its PNG. Raises Problem if the job has no such picture, has not
    finished it yet, or keeps it no longer."""
    must_have_succeeded(job)
    result = read_result(job)
    images = () if result is None else result.images
    if index >= len(images):
        raise Problem(404, "no_such_image", f"the job has {len(images)} pictures, counted from 0")
    png = await services.blobs.get(images[index].blob)
    if png is None:
        detail = "the picture is no longer kept: its time is over, or the server needed the room for other pictures"
        raise Problem(410, "expired", detail)
    return images[index], png


async def link_token(services: Services, client: Client, job_id: str) -> tuple[str, int | None]:
    """The query that makes an address of the job need no key, and until when, in Unix seconds. Empty and None where
    no key is needed anyway."""
    if not client.key_id:
        return "", None
    expires = int(time.time() + services.settings.link_life)
    return f"?token={await services.signer.sign(link_to(job_id), client.key_id, expires)}", expires


STATUS_OF_FAILURES = {"invalid_request": 422, "start_timeout": 504}
"""By the code of a job's error, where it is not the server's fault."""


def must_have_succeeded(job: Job) -> None:
    """Raises Problem."""
    if job.state == "failed":
        error = job.error or {"code": "failed", "message": "no reason was given"}
        field, message = error.get("field"), error["message"]
        errors = [FieldError(field, message.removeprefix(f"{field}: "), error["code"])] if field else []
        raise Problem(409, error["code"], f"the job failed: {message}", errors=errors)
    if job.state == "canceled":
        raise Problem(409, "canceled", "the job was cancelled; it has no picture")
    if job.state != "succeeded":
        headers = {"Retry-After": "1"}
        raise Problem(409, "not_done_yet", f"the job is {job.state}; its picture is not there yet", headers=headers)


def status_without_picture(job: Job, problem: Problem) -> int:
    """Where the client asked for the picture itself. A fault that only the worker can find, such as a prompt of which
    its text encoder reads nothing, is a client error like all others."""
    if job.state != "failed":
        return problem.status
    return STATUS_OF_FAILURES.get(problem.code, 500)


_UNSAFE = re.compile(r"[^A-Za-z0-9]+")
MOST_OF_A_PROMPT = 60
"""Characters of a picture's file name."""
MOST_OF_WARNINGS = 2048
"""Bytes of a header; proxies take 4 or 8 KB for all headers together."""


async def picture_response(services: Services, request: Request, job: Job, index: int, format: Format) -> Response:
    """Raises Problem, as find_picture."""
    made, png = await find_picture(services, job, index)
    spec = read_spec(job)
    data = png
    if format != "png":
        data = await in_thread(services, request, job.client, images.transcode, png, format, spec.output.quality)
    return Response(
        data,
        media_type=MEDIA_TYPES[format],
        headers={
            # What a URL shows never changes, but it expires with its job.
            "Cache-Control": "private, max-age=3600",
            "Vary": "Accept",
            "Content-Disposition": f'inline; filename="{_file_name(spec, made.seed, format)}"',
            "X-Job-ID": job.id,
            "X-Seed": str(made.seed),
            **_warnings_header(read_result(job)),
        },
    )


def _warnings_header(result: JobResult | None) -> dict[str, str]:
    """The job's warnings as JSON in ASCII; without their messages where these are too long for a header."""
    if result is None or not result.warnings:
        return {}
    told = [warning.model_dump() for warning in result.warnings]
    whole = json.dumps(told)
    short = [{name: one[name] for name in ("field", "code")} for one in told]
    return {"X-Warnings": whole if len(whole) <= MOST_OF_WARNINGS else json.dumps(short)}


def _file_name(spec: JobSpec, seed: int, format: Format) -> str:
    prompt = _UNSAFE.sub("_", spec.prompt or "")[:MOST_OF_A_PROMPT].strip("_")
    parts = (spec.model, spec.class_name or prompt or spec.task, str(seed))
    return "-".join(_UNSAFE.sub("_", part) for part in parts) + "." + {"jpeg": "jpg"}.get(format, format)


async def cancel_job(services: Services, job: Job) -> Canceled:
    """Cancels a job; one that has ended stays as it is."""
    said = await services.queue.cancel(job.id)
    if said == "canceled" and job.state not in FINAL_STATES:
        # The job never reached a worker, or its worker is gone: no other process counts it.
        task = task_of(job.spec)
        services.metrics.count_end(job.model, task, "canceled")
        logs.job_line(
            job.id,
            "canceled",
            seconds=time.time() - job.created_at,
            request_id=job.request_id,
            model=job.model,
            task=task,
            client=job.client,
            attempt=job.attempt,
        )
    return said


async def check_room(services: Services, client: Client, model: str) -> None:
    """An early check, before pictures are decoded and stored; the queue checks again. Raises Problem."""
    if client.quota is not None and await services.queue.unfinished(client.name) >= client.quota:
        raise no_room(services, QuotaFull(client.quota))
    waiting = await services.queue.depth(model)
    if waiting >= services.settings.max_queued:
        raise no_room(services, QueueFull(f"{waiting} jobs wait for {model} already"))


def no_room(services: Services, full: QuotaFull | QueueFull | BlobStoreFull | UploadQuotaFull) -> Problem:
    headers = {"Retry-After": str(services.settings.retry_after)}
    if isinstance(full, UploadQuotaFull):
        remedy = "wait until some of these jobs are done, or send smaller pictures"
        return Problem(429, "upload_quota_exceeded", f"{full}: {remedy}", headers=headers)
    if isinstance(full, QuotaFull):
        return Problem(429, "quota_exceeded", f"{full}: wait until some of them are done", headers=headers)
    code = "queue_full" if isinstance(full, QueueFull) else "storage_full"
    return Problem(503, code, f"there is no room at the moment: {full}", headers=headers)


async def until_finished(services: Services, job: Job, seconds: float, left: asyncio.Future[None] | None = None) -> Job:
    """Waits until the job ends, the time is up, this server closes, or the client disconnects (left). Returns the job
    as it is then."""
    if job.state in FINAL_STATES:
        return job

    async def ended() -> None:
        with services.hub.ending(job.id) as end:
            while True:
                try:
                    if await services.queue.state(job.id) not in ("queued", "running"):
                        return
                    async with asyncio.timeout(LOOK_AGAIN_SECONDS):
                        await end.wait()
                except TimeoutError:
                    pass  # the notice may be lost, with a Redis that was restarted
                except (RedisError, OSError) as error:
                    log.warning("waiting for job %s: %s; looking again", job.id, error)
                    await asyncio.sleep(AFTER_ERROR_SECONDS)

    tasks: set[asyncio.Future[Any]] = {
        asyncio.ensure_future(ended()),
        asyncio.ensure_future(services.lifecycle.closing.wait()),
    }
    try:
        await asyncio.wait(tasks | {left} if left else tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancelled(*tasks)
    return await services.queue.job(job.id) or job


def expired(job_id: str, ttl_seconds: float) -> bool:
    """Whether a missing job once existed and has expired: its id carries its time of creation."""
    made = made_at(job_id)
    return made is not None and made <= time.time() and made + ttl_seconds < time.time()


def made_at(job_id: str) -> float | None:
    """Unix seconds, from an id made by `new_job_id`."""
    stamp, dash, _ = job_id.partition("-")
    if not dash or len(stamp) != 8 or not set(stamp) <= set("0123456789abcdef"):
        return None
    return float(int(stamp, 16))

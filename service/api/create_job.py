"""From a plan to a job in the queue: replays by idempotency key, room, uploads, submission. Knows no HTTP request, so
that another API face can use it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from service import logs
from service.api.job_access import no_room, read_spec
from service.auth.keys import Client
from service.errors import FieldError, Problem
from service.jobs import BlobStoreFull, Job, NewJob, QueueFull, QuotaFull, UploadQuotaFull
from service.jobs.messages import Priority
from service.jobs.spec import JobSpec, Size, encode
from service.jobs.webhooks.hosts import HostNotAllowed
from service.services import Services

RESULTS_SHARE = 0.25
"""Of the blob store's budget, for the pictures of one job."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_SECONDS = re.compile(r"\d{1,6}(\.\d{1,3})?")


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What a request asks of the queue beside its pictures. start_seconds: if no worker has claimed the job by then, it
    fails. webhook: the URL to call when it has ended."""

    start_seconds: float | None = None
    webhook: str = ""

    @classmethod
    def of(cls, services: Services, start_timeout: str | None, webhook_url: str | None) -> JobOptions:
        """From the headers X-Start-Timeout and X-Webhook-URL. Raises Problem."""
        return cls(_start_seconds(services, start_timeout), _webhook(services, webhook_url))


async def replay(services: Services, client: Client, route: str, key: str | None, digest: str) -> Job | None:
    """The job that this idempotency key already made. Raises Problem where that was for another request."""
    if key is None:
        return None
    job = await services.queue.repeated(_repeats(client, route, key))
    return None if job is None else _same_request(job, digest)


async def create_job(
    services: Services,
    client: Client,
    spec: JobSpec,
    *,
    route: str,
    cost: int,
    key: str | None = None,
    digest: str = "",
    priority: Priority = "normal",
    uploads: Mapping[str, bytes] | None = None,
    options: JobOptions = JobOptions(),
) -> Job:
    """Stores the uploads and submits the job that names them. Of two requests with one idempotency key, the second gets
    the first one's job, if both are the same request, and its own uploads are deleted.

    route: the kind of request that an idempotency key belongs to. digest: tells whether a repeated request is the
    same. uploads: PNGs by what they are. Raises Problem when there is no room, or when the key is another request's.
    """
    _check_uploads_fit(services, uploads or {})
    repeats = "" if key is None else _repeats(client, route, key)
    id, uploads = new_job_id(), uploads or {}
    blobs = {name: f"{id}/{name}" for name in uploads}
    spec = spec.model_copy(update={"blobs": blobs, "digest": digest})
    new = NewJob(
        id=id,
        model=spec.model,
        client=client.name,
        cost=cost,
        pixels=spec.pixels,
        spec=encode(spec),
        weight=client.weight,
        priority=priority,
        quota=client.quota,
        blobs=tuple(blobs.values()),
        repeats=repeats,
        effort=_effort(spec),
        about=_about(spec),
        start_seconds=options.start_seconds,
        webhook=options.webhook,
        request_id=logs.known("request_id"),
    )
    try:
        for name, data in uploads.items():
            await services.blobs.put(blobs[name], data, client=client.name)
        submitted = await services.queue.submit(new)
    except (QuotaFull, QueueFull, BlobStoreFull, UploadQuotaFull) as full:
        await _discard(services, blobs)
        raise no_room(services, full) from None
    # After any other error the uploads belong to no job, and expire soon.
    job = await services.queue.job(submitted.id)
    if job is None:
        headers = {"Retry-After": str(services.settings.retry_after)}
        raise Problem(503, "queue_unavailable", "the queue lost the job; send it again", headers=headers)
    if job.id != id:
        await _discard(services, blobs)
    return _same_request(job, digest)


def new_job_id() -> str:
    """Nobody can guess it. It tells when it was made, so that a job that is no longer kept is known to have expired."""
    return f"{int(time.time()):08x}-{secrets.token_hex(12)}"


def _repeats(client: Client, route: str, key: str) -> str:
    """The same for the same idempotency key of the same client. Raises Problem."""
    if not _KEY.fullmatch(key):
        raise _bad_header("Idempotency-Key", "1 to 255 visible ASCII characters")
    return hashlib.sha256(f"{client.name}\0{route}\0{key}".encode()).hexdigest()[:32]


def _bad_header(name: str, message: str, code: str = "invalid") -> Problem:
    return Problem(400, code, f"{name}: {message}", errors=[FieldError(name, message, code, place="header")])


def _start_seconds(services: Services, given: str | None) -> float | None:
    """Raises Problem."""
    if given is None:
        return None
    most = services.queue.config.held_seconds
    if not _SECONDS.fullmatch(given) or not 0 < float(given) <= most:
        message = f"must be a number of seconds above 0 and up to {most:.0f}, such as 30; without it the job waits"
        raise _bad_header("X-Start-Timeout", message)
    return float(given)


def _webhook(services: Services, given: str | None) -> str:
    """Raises Problem."""
    if given is None:
        return ""
    if not services.webhook_hosts:
        message = "this server calls no webhooks; leave it out, or ask the operator to set ARPG_WEBHOOK_HOSTS"
        raise _bad_header("X-Webhook-URL", message, "webhooks_off")
    try:
        return str(services.webhook_hosts.checked(given))
    except HostNotAllowed as error:
        raise _bad_header("X-Webhook-URL", str(error), "webhook_not_allowed") from None


def _effort(spec: JobSpec) -> int:
    """What the time to draw the job grows with: steps of all windows. A model that sets its steps itself has the same
    number of tokens in each, as far as estimates need it."""
    steps = spec.sampling.steps or int((~spec.fixed_cells).sum())
    return max(1, steps * max(1, len(spec.windows)))


def _about(spec: JobSpec) -> dict[str, object]:
    """For the list of the client's jobs, which reads no specs."""
    height, width = spec.size
    shown = {"class_name": spec.class_name} if spec.prompt is None else {"prompt": spec.prompt}
    return {"task": spec.task, **shown, "n": spec.n, "width": width, "height": height}


def check_priority(client: Client, priority: Priority) -> None:
    """Raises Problem."""
    if not client.may_ask(priority):
        message = f"this key may ask for {client.priority} at most"
        raise Problem.field("priority", message, "priority_not_allowed", status=403)


@contextlib.contextmanager
def refusals_counted(services: Services, model: str | None, route: str) -> Iterator[None]:
    """Counts good requests that the service had no place for; bad ones show in the HTTP series. model: as the request
    names it."""
    try:
        yield
    except Problem as problem:
        if problem.status == 503:
            services.metrics.count_end(services.catalogue.meant(model), route, problem.code)
        raise


def check_results_fit(services: Services, n: int, size: Size, field: str) -> None:
    """One job's pictures may take a share of the blob store, no more. Raises Problem.

    field: what the size follows from. A PNG hardly ever takes more than its pixels, 3 bytes each.
    """
    height, width = size
    limit = int(services.blobs.limits.max_bytes * RESULTS_SHARE)
    picture = height * width * 3
    if picture > limit:
        message = f"a result of {width} x {height} pixels may take {picture} bytes; this server has {limit} for a job"
        raise Problem.field(field, message, "too_large", status=413)
    if n * picture > limit:
        message = f"{n} results of {width} x {height} pixels may take {n * picture} bytes; this server has {limit} "
        raise Problem.field("n", f"{message}for a job: at most {limit // picture} fit", "too_large")


def _check_uploads_fit(services: Services, uploads: Mapping[str, bytes]) -> None:
    """Raises Problem where they would not fit even if the client had no others."""
    size, limit = sum(map(len, uploads.values())), services.blobs.limits.client_upload_bytes
    if size > limit:
        message = (
            f"{' and '.join(uploads)} take {size} bytes as PNG; this server has {limit} for the uploads of a client"
        )
        raise Problem.field("image", f"{message}: send a smaller picture", "too_large", status=413)


def _same_request(job: Job, digest: str) -> Job:
    spec = read_spec(job)
    logs.tell(job_id=job.id, model=job.model, task=spec.task)
    if spec.digest != digest:
        message = "another request was sent with this key"
        error = FieldError("Idempotency-Key", message, place="header")
        raise Problem(422, "key_reused", f"Idempotency-Key: {message}", errors=[error])
    return job


async def _discard(services: Services, blobs: Mapping[str, str]) -> None:
    for blob in blobs.values():
        await services.blobs.delete(blob)

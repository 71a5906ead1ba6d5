"""From a checked request to a job."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Query, Request
from fastapi.responses import Response

from service.api.dependencies import ClientDep, ServicesDep
from service.api.job_access import no_room
from service.api.presenter import Wish, answer
from service.auth.keys import Client
from service.errors import FieldError, Problem
from service.jobs import BlobStoreFull, Job, NewJob, QueueFull, QuotaFull
from service.services import Services
from service.tasks.fields import ForkRequest, GenerateRequest
from service.tasks.images import Format

RESULTS_SHARE = 0.25
"""Of the blob store's budget, for the pictures of one job."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Draft:
    """A job to be: what the worker reads, what it weighs, and the files that it starts from."""

    payload: dict[str, Any]
    cost: int
    uploads: dict[str, bytes] = field(default_factory=dict)


Drafting = Callable[[], Awaitable[Draft]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A request for pictures, apart from its body: who sends it, and how the answer is to come."""

    services: Services
    request: Request
    client: Client
    key: str | None
    prefer: str | None
    cancel_on_disconnect: bool

    async def accept(
        self, task: str, fields: GenerateRequest | ForkRequest, format: Format, digest: str, draft: Drafting
    ) -> Response:
        """Makes a job of it and answers. format: of the pictures. digest: tells whether a repeated request is the same.
        draft: is asked for unless the idempotency key already made a job; raises Problem where the request is bad."""
        job = await self.known(task, digest)
        if job is None:
            self._wish(fields.n, format)
            self._check_priority(fields)
            with refusals_counted(self.services, task):
                made = await draft()
                job = await self._submit(task, digest, fields, made)
        return await self.answer(job)

    async def known(self, task: str, digest: str) -> Job | None:
        """The job that this idempotency key already made. Raises Problem where that was for another request."""
        if self.key is None:
            return None
        job = await self.services.queue.job(job_id(self.client, task, self.key))
        return None if job is None else _same(job, digest)

    async def answer(self, job: Job) -> Response:
        wish = self._wish(job.payload["n"], job.payload["format"])
        return await answer(self.services, self.request, job, wish)

    def _wish(self, n: int, format: Format) -> Wish:
        return Wish.of(
            self.request.headers.get("accept"),
            self.prefer,
            n=n,
            format=format,
            limit=self.services.settings.max_wait,
            cancel_on_disconnect=self.cancel_on_disconnect,
        )

    def _check_priority(self, fields: GenerateRequest | ForkRequest) -> None:
        if not self.client.may_ask(fields.priority):
            message = f"this key may ask for {self.client.priority} at most"
            raise Problem.field("priority", message, "priority_not_allowed", status=403)

    async def _submit(self, task: str, digest: str, fields: GenerateRequest | ForkRequest, draft: Draft) -> Job:
        """Puts uploads into the blob store and the job, which names them, into the queue. Whoever else submits the same
        id has uploads of other names; who comes second gets the first one's job, if it is for the same request.

        Raises Problem when there is no room, or when the id is another request's.
        """
        services, id = self.services, job_id(self.client, task, self.key)
        token = secrets.token_hex(8)
        blobs = {name: f"{id}/{token}/{name}" for name in draft.uploads}
        payload = draft.payload | {"digest": digest} | blobs
        new = NewJob(
            id=id,
            model=payload["model"],
            client=self.client.name,
            cost=draft.cost,
            payload=payload,
            weight=self.client.weight,
            priority=fields.priority,
            quota=self.client.quota,
            blobs=tuple(blobs.values()),
        )
        try:
            for name, data in draft.uploads.items():
                await services.blobs.put(blobs[name], data)
            await services.queue.submit(new)
        except (QuotaFull, QueueFull, BlobStoreFull) as full:
            await _discard(services, blobs)
            raise no_room(services, full) from None
        # What else may go wrong leaves uploads that no job holds, and these do not live long.
        job = await services.queue.job(id)
        if job is None:
            headers = {"Retry-After": str(services.settings.retry_after)}
            raise Problem(503, "queue_unavailable", "the queue lost the job; send it again", headers=headers)
        # Whether it is ours, the job tells better than the answer to a submission that may have been sent twice.
        if any(job.payload[name] != blob for name, blob in blobs.items()):
            await _discard(services, blobs)
        return _same(job, digest)


def _submission(
    request: Request,
    services: ServicesDep,
    client: ClientDep,
    idempotency_key: Annotated[
        str | None, Header(description="The same key again answers with the same job, instead of drawing anew")
    ] = None,
    prefer: Annotated[str | None, Header(description="`wait=N`: answer when the job is done, within N seconds")] = None,
    on_disconnect: Annotated[
        Literal["cancel"] | None,
        Query(description="Cancel the job when this connection closes before it has ended; else it goes on"),
    ] = None,
) -> Submission:
    return Submission(
        services=services,
        request=request,
        client=client,
        key=idempotency_key,
        prefer=prefer,
        cancel_on_disconnect=on_disconnect == "cancel",
    )


SubmissionDep = Annotated[Submission, Depends(_submission)]


def job_id(client: Client, task: str, key: str | None) -> str:
    """With an idempotency key, the same id for the same key of the same client. Else a new one that nobody can guess
    and that tells when it was made."""
    if key is None:
        return f"{int(time.time()):08x}-{secrets.token_hex(12)}"
    if not _KEY.fullmatch(key):
        error = FieldError("Idempotency-Key", "1 to 255 visible ASCII characters", place="header")
        raise Problem(400, "invalid", "Idempotency-Key: 1 to 255 visible ASCII characters", errors=[error])
    return hashlib.sha256(f"{client.name}\0{task}\0{key}".encode()).hexdigest()[:32]


@contextlib.contextmanager
def refusals_counted(services: Services, task: str) -> Iterator[None]:
    """Good requests that the service had no place for; bad ones show in the HTTP series."""
    try:
        yield
    except Problem as problem:
        if problem.status == 503:
            services.metrics.requests.labels(task, problem.code).inc()
        raise


def _same(job: Job, digest: str) -> Job:
    if job.payload.get("digest") != digest:
        detail = "Idempotency-Key: another request was sent with this key"
        error = FieldError("Idempotency-Key", "another request was sent with this key", place="header")
        raise Problem(422, "key_reused", detail, errors=[error])
    return job


def check_results_fit(services: Services, n: int, size: tuple[int, int], field: str = "image") -> None:
    """One job's pictures may take a share of the blob store, no more. Raises Problem.

    size: height and width. field: what they follow from. Nobody knows before how well a picture packs; as PNG it hardly
    ever takes more than its pixels, 3 bytes each.
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


async def _discard(services: Services, blobs: dict[str, str]) -> None:
    for blob in blobs.values():
        await services.blobs.delete(blob)

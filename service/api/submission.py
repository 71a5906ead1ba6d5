"""A request for pictures, apart from its body: its sender, its idempotency key, start deadline and webhook, and how it
wants its answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from fastapi import Depends, Header, Query, Request
from fastapi.responses import Response

from service import logs
from service.api.create_job import JobOptions
from service.api.dependencies import ClientDep, ServicesDep
from service.api.job_access import read_spec
from service.api.negotiation import ResponsePreference
from service.api.presenter import present
from service.auth.keys import Client
from service.jobs import Job
from service.services import Services
from service.tasks.pictures.images import Format


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    services: Services
    request: Request
    client: Client
    key: str | None
    options: JobOptions
    prefer: str | None
    cancel_on_disconnect: bool

    def preference(self, n: int, format: Format) -> ResponsePreference:
        """For n pictures in this format. Raises Problem where the preference can't be met."""
        return ResponsePreference.of(
            self.request.headers.get("accept"),
            self.prefer,
            n=n,
            format=format,
            limit=self.services.settings.max_wait,
            cancel_on_disconnect=self.cancel_on_disconnect,
        )

    async def answer(self, job: Job) -> Response:
        spec = read_spec(job)
        return await present(self.services, self.request, job, self.preference(spec.n, spec.output.format))


async def _submission(
    request: Request,
    services: ServicesDep,
    client: ClientDep,
    idempotency_key: Annotated[
        str | None, Header(description="A repeated request with the same key returns the same job")
    ] = None,
    x_start_timeout: Annotated[
        str | None,
        Header(description="Seconds within which a worker must begin with the job; else it fails with `start_timeout`"),
    ] = None,
    x_webhook_url: Annotated[
        str | None,
        Header(description="Called when the job has ended, if the server allows its host; see /v1/webhooks/secret"),
    ] = None,
) -> Submission:
    logs.tell(task=request.scope["route"].name)  # where the job's task is another, create_job tells it
    return Submission(
        services=services,
        request=request,
        client=client,
        key=idempotency_key,
        options=JobOptions.of(services, x_start_timeout, x_webhook_url),
        prefer=None,
        cancel_on_disconnect=False,
    )


PlainSubmissionDep = Annotated[Submission, Depends(_submission)]
"""A submission whose route has its own way to answer."""


async def _preferring(
    submission: PlainSubmissionDep,
    prefer: Annotated[
        str | None, Header(description="`wait=N`: respond when the job has ended, after N seconds at most")
    ] = None,
    on_disconnect: Annotated[
        Literal["cancel"] | None,
        Query(
            description="Cancel the job if this connection closes before the job has ended. Otherwise the job continues"
        ),
    ] = None,
) -> Submission:
    return replace(submission, prefer=prefer, cancel_on_disconnect=on_disconnect == "cancel")


SubmissionDep = Annotated[Submission, Depends(_preferring)]

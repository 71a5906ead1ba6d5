"""A request for pictures, apart from its body: its sender, its idempotency key, start deadline and webhook, and how it
wants its answer."""

from __future__ import annotations

from dataclasses import dataclass
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


StartTimeout = Annotated[
    str | None,
    Header(description="Seconds within which a worker must begin with the job; else it fails with `start_timeout`"),
]
WebhookUrl = Annotated[
    str | None,
    Header(description="Called when the job has ended, if the server allows its host; see /v1/webhooks/secret"),
]


async def _submission(
    request: Request,
    services: ServicesDep,
    client: ClientDep,
    idempotency_key: Annotated[
        str | None, Header(description="A repeated request with the same key returns the same job")
    ] = None,
    prefer: Annotated[
        str | None, Header(description="`wait=N`: respond when the job has ended, after N seconds at most")
    ] = None,
    x_start_timeout: StartTimeout = None,
    x_webhook_url: WebhookUrl = None,
    on_disconnect: Annotated[
        Literal["cancel"] | None,
        Query(
            description="Cancel the job if this connection closes before the job has ended. Otherwise the job continues"
        ),
    ] = None,
) -> Submission:
    logs.tell(task=request.scope["route"].name)  # of a fork, create_job tells the parent's
    return Submission(
        services=services,
        request=request,
        client=client,
        key=idempotency_key,
        options=JobOptions.of(services, x_start_timeout, x_webhook_url),
        prefer=prefer,
        cancel_on_disconnect=on_disconnect == "cancel",
    )


SubmissionDep = Annotated[Submission, Depends(_submission)]

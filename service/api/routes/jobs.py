"""Jobs: status, cancelling, events, pictures."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from service.api import sse
from service.api.dependencies import ClientDep, ServicesDep
from service.api.job_access import cancel_job, find_head, find_job, picture_response, read_spec
from service.api.negotiation import FORMATS, negotiate
from service.api.presenter import event_stream, job_object, root_of
from service.api.problems import described
from service.api.schemas import JobObject
from service.errors import Problem
from service.jobs import FINAL_STATES, Gone, Job
from service.jobs.messages import parse_event_id
from service.services import Services
from service.tasks.pictures.images import MEDIA_TYPES, Format

router = APIRouter(prefix="/v1/jobs/{id}", tags=["jobs"], responses=described(404, 410, 422))

JobId = Annotated[str, Path(max_length=64)]


@router.get("", name="get_job", response_model=JobObject)
async def status(id: JobId, request: Request, services: ServicesDep, client: ClientDep) -> Response:
    """Get the present state of a job."""
    return _respond(await find_job(services, client, id), request)


@router.delete(
    "",
    name="cancel_job",
    response_model=JobObject,
    responses={202: {"model": JobObject, "description": "A worker draws the job and stops soon"}},
)
async def cancel(id: JobId, request: Request, services: ServicesDep, client: ClientDep) -> Response:
    """Cancel a job; one that has ended stays as it is.

    The request may be repeated.
    """
    said = await cancel_job(services, await find_job(services, client, id))
    return _respond(await find_job(services, client, id), request, status=202 if said == "requested" else 200)


@router.get(
    "/events",
    name="follow_job",
    status_code=200,
    response_class=sse.EventStreamResponse,
    response_model=None,
    responses={
        200: {"description": "Server-sent events", "content": {sse.MEDIA_TYPE: {"schema": {"type": "string"}}}},
        204: {"description": "The job has ended and the client has all its events: don't reconnect"},
    },
)
async def events(
    id: JobId,
    request: Request,
    services: ServicesDep,
    client: ClientDep,
    last_event_id: Annotated[
        str | None, Header(description="The id of the last event received; the stream continues after it")
    ] = None,
    last_event_id_query: Annotated[
        str | None, Query(alias="last_event_id", description="The same, for clients that can't set the header")
    ] = None,
) -> Response:
    """Follow the events of a job, from its beginning or after the given id, until it ends."""
    job = await find_head(services, client, id)
    after = sse.last_event_id(last_event_id, last_event_id_query)
    if job.state in FINAL_STATES and not await more_events(services, id, after):
        return Response(status_code=204)
    return event_stream(services, id, root_of(request), after=after)


@router.get(
    "/images/{index}",
    name="get_image",
    response_class=Response,
    responses={
        200: {"content": {media: {"schema": {"type": "string", "format": "binary"}} for media in FORMATS}},
        **described(406),
        409: described(409)[409] | {"description": "The job has no picture (yet)"},
        410: described(410)[410] | {"description": "The picture has expired"},
    },
)
async def image(
    id: JobId,
    index: Annotated[int, Path(ge=0, le=999)],
    request: Request,
    services: ServicesDep,
    client: ClientDep,
    format: Annotated[Format | None, Query(description="Takes precedence over the Accept header")] = None,
) -> Response:
    """Get a finished picture as PNG, JPEG or WebP.

    Its format is `?format=`, or else the job's own if Accept allows it, or else the one that Accept prefers.
    """
    job = await find_job(services, client, id)
    if format is None:
        own = MEDIA_TYPES[read_spec(job).output.format]
        accept = request.headers.get("accept")
        chosen = own if negotiate(accept, [own]) else negotiate(accept, list(FORMATS))
        if chosen is None:
            raise Problem(406, "not_acceptable", f"the picture can be one of {', '.join(FORMATS)}")
        format = FORMATS[chosen]
    return await picture_response(services, request, job, index, format)


async def more_events(services: Services, id: str, after: str | None) -> bool:
    """Whether a job that has ended has events that this client did not see. Asked before the response starts."""
    try:
        return (await services.hub.newest(id)).position != parse_event_id(after)
    except Gone:
        raise Problem(410, "expired", "the job's events are no longer kept") from None


def _respond(job: Job, request: Request, *, status: int = 200) -> JSONResponse:
    headers: dict[str, Any] = {"Cache-Control": "no-store"}
    if job.state not in FINAL_STATES:
        headers["Retry-After"] = "1"  # for those who poll
    return JSONResponse(
        job_object(job, root_of(request)).model_dump(mode="json", by_alias=True), status_code=status, headers=headers
    )

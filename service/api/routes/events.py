"""The events of several jobs on one connection: /v1/events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from service.api import sse
from service.api.dependencies import ClientDep, ServicesDep
from service.api.job_access import find_head
from service.api.presenter import merged_event_stream, root_of
from service.api.problems import described
from service.api.routes.jobs import more_events
from service.errors import Problem
from service.jobs import FINAL_STATES, Gone

router = APIRouter(prefix="/v1", tags=["jobs"], responses=described(422))

MOST_JOBS = 64

JobAndEvent = Annotated[str, Query(max_length=110, pattern=r"^[^@]{1,64}(@\d{1,20}-\d{1,20})?$")]


@router.get(
    "/events",
    name="follow_jobs",
    status_code=200,
    response_class=sse.EventStreamResponse,
    response_model=None,
    responses={
        200: {"description": "Server-sent events", "content": {sse.MEDIA_TYPE: {"schema": {"type": "string"}}}},
        204: {"description": "All jobs have ended and the client has all their events: don't reconnect"},
    },
)
async def events(
    request: Request,
    services: ServicesDep,
    client: ClientDep,
    job: Annotated[
        list[JobAndEvent],
        Query(
            min_length=1,
            max_length=MOST_JOBS,
            description="Ids of jobs. `JOB@EVENT` continues after the event of this id, the last one that was received",
        ),
    ],
) -> Response:
    """Follow the events of several jobs on one connection, until all of them end.

    The events are those of each job's own stream, and an event's id is `JOB@EVENT`. If the events of one job end early,
    an `error` event without an id has its id as `job`; the others go on.
    """
    after = {id: last or None for id, _, last in (each.partition("@") for each in job)}
    left, gone = {}, {}
    for id, last in after.items():
        try:
            head = await find_head(services, client, id)
            if head.state not in FINAL_STATES or await more_events(services, id, last):
                left[id] = last
        except Problem as problem:
            gone[id] = Gone(problem.detail)
    if not left and not gone:
        return Response(status_code=204)
    return merged_event_stream(services, left, gone, root_of(request))

"""The jobs of a client: /v1/jobs."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.api.dependencies import ClientDep, ServicesDep
from service.api.presenter import listed_job, root_of
from service.api.problems import described
from service.api.schemas import JobList, Status
from service.errors import FieldError, Problem

router = APIRouter(prefix="/v1", tags=["jobs"], responses=described(422))

_CURSOR = re.compile(r"\d{1,15}")


@router.get("/jobs")
async def list_jobs(
    request: Request,
    response: Response,
    services: ServicesDep,
    client: ClientDep,
    status: Annotated[Status | None, Query(description="Only jobs with this status")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Jobs on a page")] = 20,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
) -> JobList:
    """List this client's jobs, the newest first.

    A job is in the list as long as it is kept. Of a client's ended jobs the oldest leave the list beyond 10,000.
    """
    page = await services.queue.jobs_of(client.name, limit=limit, state=status, cursor=_place(cursor))
    response.headers["Cache-Control"] = "no-store"
    root = root_of(request)
    following = None if page.cursor is None else str(page.cursor)
    return JobList(jobs=[listed_job(job, root) for job in page.jobs], next_cursor=following)


def _place(cursor: str | None) -> int | None:
    """Raises Problem."""
    if cursor is None:
        return None
    if not _CURSOR.fullmatch(cursor):
        message = "is not a next_cursor of this list; leave it out to begin with the newest job"
        raise Problem(422, "invalid", f"cursor: {message}", errors=[FieldError("cursor", message, place="query")])
    return int(cursor)

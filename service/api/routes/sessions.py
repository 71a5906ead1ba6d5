"""Session cookies and signed addresses, for browsers, which can't send a key with every request."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from service.api.dependencies import ClientDep, ServicesDep
from service.api.job_access import find_job, link_token, read_spec
from service.api.presenter import job_url, root_of
from service.api.problems import described
from service.api.routes.jobs import JobId
from service.api.schemas import Links, Session
from service.auth.sessions import COOKIE, SESSION, key_of
from service.errors import unauthorized

router = APIRouter(prefix="/v1", tags=["sessions"])


@router.post("/session")
async def open_session(request: Request, response: Response, services: ServicesDep, client: ClientDep) -> Session:
    """Exchange the key in a header for a cookie that expires, so that a page need not store the key."""
    if not client.key_id:
        return Session(client=client.name, expires_at=None)
    if key_of(request.headers) is None:
        raise unauthorized("key_needed", "send a key in a header; a session can't open another session")
    life = int(services.settings.session_life)
    expires = int(time.time()) + life
    response.set_cookie(
        COOKIE,
        await services.signer.sign(SESSION, client.key_id, expires),
        max_age=life,
        path=root_of(request) or "/",
        httponly=True,
        samesite="strict",
        secure=_secure(request),
    )
    response.headers["Cache-Control"] = "no-store"
    return Session(client=client.name, expires_at=datetime.fromtimestamp(expires, UTC))


@router.delete("/session", status_code=204)
async def close_session(request: Request, response: Response) -> None:
    """End the session: the browser deletes its cookie."""
    response.delete_cookie(COOKIE, path=root_of(request) or "/", httponly=True, samesite="strict")


@router.post("/jobs/{id}/links", name="sign_links", tags=["jobs"], responses=described(404, 410, 422))
async def links(id: JobId, request: Request, services: ServicesDep, client: ClientDep) -> Links:
    """Sign addresses of a job's events and pictures, which need no key until they expire."""
    job = await find_job(services, client, id)
    own = job_url(root_of(request), job.id)
    events, images = f"{own}/events", [f"{own}/images/{index}" for index in range(read_spec(job).n)]
    token, expires = await link_token(services, client, job.id)
    return Links(
        events=f"{events}{token}",
        images=[f"{image}{token}" for image in images],
        expires_at=None if expires is None else datetime.fromtimestamp(expires, UTC),
    )


def _secure(request: Request) -> bool:
    """Whether the browser uses TLS, to this server or to a proxy in front of it."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))

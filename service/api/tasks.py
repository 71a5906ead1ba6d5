"""Drawing from nothing: /v1/generate and /v1/expand."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel

from service import problems, sse
from service.api.services import ServicesDep
from service.api.submission import Draft, SubmissionDep, check_results_fit
from service.canvas import expanded
from service.images import MEDIA_TYPES
from service.problems import Problem, described
from service.requests import ExpandRequest, GenerateRequest
from service.resolve import cost, resolve
from service.schemas import JobObject

_PICTURES: dict[str, Any] = {
    media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES.values()
}
_STREAM: dict[str, Any] = {sse.MEDIA_TYPE: {"schema": {"type": "string"}}}

# The kinds of answer, by Accept and Prefer.
ANSWERS: dict[int | str, dict[str, Any]] = {
    202: {"model": JobObject, "description": "The job is accepted; `Location` says where to follow it"},
    200: {
        "model": JobObject,
        "description": "With `Prefer: wait=N`, the job, ended in time. With `Accept: text/event-stream`, its events. "
        "With `Accept: image/png`, `image/jpeg` or `image/webp`, the picture itself",
        "content": _STREAM | _PICTURES,
    },
    **described(400, 406, 413, 415, 422),
    504: described(504)[504]
    | {"description": "Only a picture was accepted, and it is not done in time; the job goes on"},
}


def draining(services: ServicesDep) -> None:
    if services.lifecycle.draining:
        raise problems.draining(services.settings.retry_after)


def json_only(request: Request) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        detail = "send the body as application/json (curl --json '{\"class\": 3}')"
        raise Problem(415, "unsupported_media_type", detail)


def digest_of(fields: BaseModel, *more: str) -> str:
    return hashlib.sha256("\0".join((*more, fields.model_dump_json())).encode()).hexdigest()


def tasks_router() -> APIRouter:
    return APIRouter(prefix="/v1", tags=["tasks"], dependencies=[Depends(draining)])


router = tasks_router()

_GENERATE_EXAMPLES: Any = {
    "by name": {"value": {"class": "mushroom", "seed": 7}},
    "fast": {"value": {"class": 3, "steps": 16, "n": 4}},
    "without a class": {"value": {"class": None}},
}
_EXPAND_EXAMPLES: Any = {
    "half as large again": {"value": {"class": "house", "width": 192, "height": 192}},
    "a panorama, window after window": {"value": {"class": "table", "width": 512, "height": 128, "method": "windowed"}},
}


@router.post("/generate", response_model=None, status_code=202, responses=ANSWERS, dependencies=[Depends(json_only)])
async def generate(
    submission: SubmissionDep, fields: Annotated[GenerateRequest, Body(openapi_examples=_GENERATE_EXAMPLES)]
) -> Response:
    """Draw n pictures of a class."""

    async def draft() -> Draft:
        served = await submission.services.catalogue.choose(fields.model, "generate")
        payload = resolve(fields, served.card, "generate")
        return Draft(payload, cost(payload, served.card, served.capacity))

    return await submission.accept("generate", fields, fields.format, digest_of(fields), draft)


@router.post("/expand", response_model=None, status_code=202, responses=ANSWERS, dependencies=[Depends(json_only)])
async def expand(
    submission: SubmissionDep, fields: Annotated[ExpandRequest, Body(openapi_examples=_EXPAND_EXAMPLES)]
) -> Response:
    """Draw n pictures of a class on a grid larger than the model was trained on, up to 4 times its tokens."""

    async def draft() -> Draft:
        served = await submission.services.catalogue.choose(fields.model, "expand")
        canvas = expanded(fields, served.card)
        check_results_fit(submission.services, fields.n, canvas.size, "width")
        payload = resolve(fields, served.card, "expand", canvas)
        return Draft(payload, cost(payload, served.card, served.capacity))

    return await submission.accept("expand", fields, fields.format, digest_of(fields), draft)

"""Drawing from nothing: /v1/generate and /v1/expand.

Drawing around what is there: /v1/inpaint, /v1/outpaint and /v1/vary."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi import Body as JSONBody
from fastapi.responses import Response
from pydantic import BaseModel

from engine.editing.masks import token_mask
from service import errors
from service.api import sse
from service.api.bodies import Body, read_body
from service.api.create_job import Draft, Drafting, Submission, SubmissionDep, check_results_fit
from service.api.dependencies import ServicesDep, choose_model, in_thread
from service.api.problems import described
from service.api.schemas import JobObject
from service.api.source_pictures import Given, picture_of
from service.errors import Problem
from service.services import Services
from service.tasks.canvas import Canvas, expanded, outpainted, redrawn, varied
from service.tasks.fields import (
    ExpandRequest,
    GenerateRequest,
    InpaintFields,
    InpaintForm,
    InpaintRequest,
    OutpaintFields,
    OutpaintForm,
    OutpaintRequest,
    VaryFields,
    VaryForm,
    VaryRequest,
)
from service.tasks.images import MEDIA_TYPES
from service.tasks.sampling import cost, resolve, seeded
from service.tasks.uploads import read_mask

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
        raise errors.draining(services.settings.retry_after)


def json_only(request: Request) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        detail = "send the body as application/json (curl --json '{\"class\": 3}')"
        raise Problem(415, "unsupported_media_type", detail)


def digest_of(fields: BaseModel, *more: str) -> str:
    return hashlib.sha256("\0".join((*more, fields.model_dump_json())).encode()).hexdigest()


router = APIRouter(prefix="/v1", tags=["tasks"], dependencies=[Depends(draining)])

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
    submission: SubmissionDep, fields: Annotated[GenerateRequest, JSONBody(openapi_examples=_GENERATE_EXAMPLES)]
) -> Response:
    """Draw n pictures of a class."""

    async def draft() -> Draft:
        served = await choose_model(submission.services, fields.model, "generate")
        payload = resolve(fields, served.card, "generate")
        return Draft(payload, cost(payload, served.card, served.capacity))

    return await submission.accept("generate", fields, fields.format, digest_of(fields), draft)


@router.post("/expand", response_model=None, status_code=202, responses=ANSWERS, dependencies=[Depends(json_only)])
async def expand(
    submission: SubmissionDep, fields: Annotated[ExpandRequest, JSONBody(openapi_examples=_EXPAND_EXAMPLES)]
) -> Response:
    """Draw n pictures of a class on a grid larger than the model was trained on, up to 4 times its tokens."""

    async def draft() -> Draft:
        served = await choose_model(submission.services, fields.model, "expand")
        canvas = expanded(fields, served.card)
        check_results_fit(submission.services, fields.n, canvas.size, "width")
        payload = resolve(fields, served.card, "expand", canvas)
        return Draft(payload, cost(payload, served.card, served.capacity))

    return await submission.accept("expand", fields, fields.format, digest_of(fields), draft)


_ANSWERS = ANSWERS | described(404, 409, 410)  # those of the source

_FROM_SOURCE = {"source": {"job": "66b2f0c4-0f6d1c2b3a495867", "image": 0}}


def _described(in_json: type[BaseModel], form: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    """The two kinds of body, for OpenAPI."""
    named = {name: {"value": value} for name, value in examples.items()}
    content = {
        "application/json": {"schema": _schema(in_json), "examples": named},
        "multipart/form-data": {"schema": _schema(form)},
    }
    return {"requestBody": {"required": True, "content": content}}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """What it refers to is among the components already: answers have it, too."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return schema


_INPAINT = _described(
    InpaintRequest,
    InpaintForm,
    {
        "an upload": {"image": "iVBORw0KGgo…", "mask": "iVBORw0KGgo…", "class": "tree"},
        "edit: another class in a picture drawn here": _FROM_SOURCE | {"mask": "iVBORw0KGgo…", "class": "house"},
    },
)
_OUTPAINT = _described(
    OutpaintRequest,
    OutpaintForm,
    {
        "to both sides of an upload": {"image": "iVBORw0KGgo…", "left": 64, "right": 64, "class": "house"},
        "below a picture drawn here": _FROM_SOURCE | {"down": 128},
    },
)
_VARY = _described(
    VaryRequest,
    VaryForm,
    {
        "half of an upload": {"image": "iVBORw0KGgo…", "keep": 0.5, "class": "cone"},
        "four of a picture drawn here": _FROM_SOURCE | {"keep": 0.25, "n": 4},
    },
)


@router.post("/inpaint", response_model=None, status_code=202, responses=_ANSWERS, openapi_extra=_INPAINT)
async def inpaint(submission: SubmissionDep) -> Response:
    """Redraw what a mask selects of a picture of any size; outside the mask it stays as it is. With another class than
    the picture's, this edits.

    The model redraws every token that the mask touches; the pixels are then taken from it inside the mask only.
    """
    body: Body[InpaintFields] = await read_body(submission.request, InpaintFields, InpaintRequest, ("image", "mask"))

    async def draft() -> Draft:
        services = submission.services
        given = await picture_of(services, submission.client, body, "inpaint")
        mode, limits = body.fields.mask_mode, services.limits
        mask, png = await in_thread(services, read_mask, body.mask, body.image, given.pixels, mode, limits)
        canvas = redrawn(token_mask(mask, given.grid), given.size, given.served.card)
        return _draft(services, "inpaint", body.fields, given, canvas, mask=png)

    return await _accept(submission, "inpaint", body, draft)


@router.post("/outpaint", response_model=None, status_code=202, responses=_ANSWERS, openapi_extra=_OUTPAINT)
async def outpaint(submission: SubmissionDep) -> Response:
    """Draw on beyond the borders of a picture of any size, whose pixels stay as they are.

    What is added is rounded up to whole tokens (`padding` in the job), at the scale at which the picture's short side
    is the model's own. The whole may be 4 times as large as what the model draws at once.
    """
    body: Body[OutpaintFields] = await read_body(submission.request, OutpaintFields, OutpaintRequest, ("image",))

    async def draft() -> Draft:
        given = await picture_of(submission.services, submission.client, body, "outpaint")
        canvas, padding = outpainted(body.fields, given.size, given.served.card)
        return _draft(submission.services, "outpaint", body.fields, given, canvas, more={"padding": asdict(padding)})

    return await _accept(submission, "outpaint", body, draft)


@router.post("/vary", response_model=None, status_code=202, responses=_ANSWERS, openapi_extra=_VARY)
async def vary(submission: SubmissionDep) -> Response:
    """Draw a picture of any size anew around a share of its tokens, scattered over it. It keeps its size, and none of
    its pixels."""
    body: Body[VaryFields] = await read_body(submission.request, VaryFields, VaryRequest, ("image",))

    async def draft() -> Draft:
        given = await picture_of(submission.services, submission.client, body, "vary")
        fields = seeded(body.fields)
        canvas, keep_seed = varied(fields, given.grid, given.size, given.served.card)
        return _draft(submission.services, "vary", fields, given, canvas, more={"keep_seed": keep_seed})

    return await _accept(submission, "vary", body, draft)


def _draft(
    services: Services,
    task: str,
    fields: InpaintFields | OutpaintFields | VaryFields,
    given: Given,
    canvas: Canvas,
    *,
    mask: bytes | None = None,
    more: dict[str, Any] | None = None,
) -> Draft:
    check_results_fit(services, fields.n, canvas.size)
    card, capacity = given.served.card, given.served.capacity
    payload = resolve(fields, card, task, canvas) | {"tokens": given.tokens} | (more or {})
    uploads = {"image": given.png} if mask is None else {"image": given.png, "mask": mask}
    return Draft(payload, cost(payload, card, capacity), uploads)


async def _accept(submission: Submission, task: str, body: Body[Any], draft: Drafting) -> Response:
    return await submission.accept(task, body.fields, body.fields.format, body.digest(), draft)

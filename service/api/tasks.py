"""Drawing: /v1/generate and /v1/inpaint."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, Depends, Request
from fastapi.responses import Response

from engine.inpainting import token_mask
from service import sse
from service.api import submission
from service.api.services import ServicesDep
from service.api.submission import IdempotencyKey, Prefer, Wish
from service.api.uploads import decode, read_upload
from service.images import MEDIA_TYPES
from service.problems import Problem
from service.resolve import cost, resolve
from service.schemas import GenerateRequest, InpaintForm, InpaintRequest, JobObject

_PICTURES: dict[str, Any] = {
    media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES.values()
}
_STREAM: dict[str, Any] = {sse.MEDIA_TYPE: {"schema": {"type": "string"}}}

# The kinds of answer, by Accept and Prefer.
_ANSWERS: dict[int | str, dict[str, Any]] = {
    202: {"model": JobObject, "description": "The job is accepted; `Location` says where to follow it"},
    200: {
        "model": JobObject,
        "description": "With `Prefer: wait=N`, the job, ended in time. With `Accept: text/event-stream`, its events. "
        "With `Accept: image/png`, `image/jpeg` or `image/webp`, the picture itself",
        "content": _STREAM | _PICTURES,
    },
    504: {"description": "Only a picture was accepted, and it is not done in time; the job goes on"},
}


def _draining(services: ServicesDep) -> None:
    if services.lifecycle.draining:
        raise submission.take_no_more(services)


def _json_only(request: Request) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        detail = "send the body as application/json (curl --json '{\"class\": 3}')"
        raise Problem(415, "unsupported_media_type", detail)


router = APIRouter(prefix="/v1", tags=["tasks"], dependencies=[Depends(_draining)])

_GENERATE_EXAMPLES: Any = {
    "by name": {"value": {"class": "mushroom", "seed": 7}},
    "fast": {"value": {"class": 3, "steps": 16, "n": 4}},
    "without a class": {"value": {"class": None}},
}


@router.post("/generate", response_model=None, status_code=202, responses=_ANSWERS, dependencies=[Depends(_json_only)])
async def generate(
    request: Request,
    services: ServicesDep,
    fields: Annotated[GenerateRequest, Body(openapi_examples=_GENERATE_EXAMPLES)],
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    """Draw n pictures of a class."""
    wish = Wish.of(request.headers.get("accept"), prefer, fields, services.settings.max_wait)
    id = submission.job_id("generate", idempotency_key)
    digest = hashlib.sha256(fields.model_dump_json().encode()).hexdigest()
    job = await submission.known(services, id, digest) if idempotency_key else None
    if job is None:
        with submission.refusals_counted(services, "generate"):
            served = await services.catalogue.choose(fields.model, "generate")
            payload = resolve(fields, served.card, "generate") | {"digest": digest}
            tokens = cost(payload, served.card, served.capacity)
            job = await submission.submit(services, id, payload, tokens, {})
    return await submission.answer(services, request, job, wish)


_INPAINT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": InpaintRequest.model_json_schema()},
            "multipart/form-data": {"schema": InpaintForm.model_json_schema()},
        },
    }
}


@router.post("/inpaint", response_model=None, status_code=202, responses=_ANSWERS, openapi_extra=_INPAINT_BODY)
async def inpaint(
    request: Request, services: ServicesDep, idempotency_key: IdempotencyKey = None, prefer: Prefer = None
) -> Response:
    """Redraw what a mask selects of a picture of any size; outside the mask it stays as it is.

    The model redraws every token that the mask touches; the pixels are then taken from it inside the mask only.
    """
    upload = await read_upload(request)
    wish = Wish.of(request.headers.get("accept"), prefer, upload.fields, services.settings.max_wait)
    id = submission.job_id("inpaint", idempotency_key)
    digest = upload.digest()
    job = await submission.known(services, id, digest) if idempotency_key else None
    if job is None:
        with submission.refusals_counted(services, "inpaint"):
            served = await services.catalogue.choose(upload.fields.model, "inpaint")
            canvas = await decode(upload, services)
            submission.check_results_fit(services, upload.fields.n, *canvas.mask.shape)
            unknown = frozenset(np.flatnonzero(token_mask(canvas.mask, served.card.grid)).tolist())
            payload = resolve(upload.fields, served.card, "inpaint", unknown) | {"digest": digest}
            tokens = cost(payload, served.card, served.capacity)
            files = {"image": canvas.image_png, "mask": canvas.mask_png}
            job = await submission.submit(services, id, payload, tokens, files)
    return await submission.answer(services, request, job, wish)

"""The routes of OpenAI's images API. They make jobs of the tasks that there are."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from service.api import sse
from service.api.bodies import Body, form_fields, json_content, json_fields, reference
from service.api.create_job import refusals_counted, replay
from service.api.job_access import cancel_job, not_draining
from service.api.openai.errors import PREFIX, fields_renamed
from service.api.openai.responses import headers_of, images_response
from service.api.openai.schemas import (
    REFUSED,
    ImageEditForm,
    ImageEditRequest,
    ImageGenerationRequest,
    ImagesRequest,
    ImagesResponse,
    OpenAIErrorBody,
)
from service.api.openai.stream import ImageStreamResponse
from service.api.openai.translation import EDIT, FIELD_NAMES, GENERATION, Face, check, decided, translated
from service.api.routes.tasks import new_job
from service.api.submission import PlainSubmissionDep, Submission
from service.errors import Problem
from service.jobs import Job

MAX_FILES = 18
"""Sixteen pictures, as OpenAI takes them, a mask and markup: so that the error can say what is wrong."""

_FILES = ("image", "image[]", "mask", "markup")
_TEXTS = ImageEditRequest.model_fields.keys() - {"n", "output_compression", "stream", "partial_images"}
"""Fields whose text in a form is their value; elsewhere it may be a number."""

_STATUSES = (400, 401, 403, 404, 409, 410, 413, 415, 429, 500, 503, 504)
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIErrorBody, "description": HTTPStatus(status).phrase} for status in _STATUSES
} | {"default": {"model": OpenAIErrorBody, "description": "An error in OpenAI's shape"}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ImagesResponse,
        "description": "The pictures. With stream=true, the events `….partial_image` and `….completed`",
        "content": {sse.MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}

router = APIRouter(prefix=PREFIX, tags=["openai"], dependencies=[Depends(not_draining)], responses=_ERRORS)

_GENERATION_BODY = json_content(
    ImageGenerationRequest,
    {
        "by name": {"prompt": "mushroom"},
        "streamed, with a seed": {"prompt": "house", "stream": True, "partial_images": 2, "seed": 7},
    },
)
_EDIT_BODY = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": reference(ImageEditForm)}}}
}


async def _submission(
    submission: PlainSubmissionDep,
    on_disconnect: Annotated[
        Literal["cancel", "continue"] | None,
        Query(
            description="What becomes of the job if this connection closes before the job has ended. Left out: it is "
            "cancelled, or continues if there is an Idempotency-Key, with which the client can come back"
        ),
    ] = None,
) -> Submission:
    cancels = on_disconnect == "cancel" if on_disconnect else submission.key is None
    return replace(submission, cancel_on_disconnect=cancels)


ImagesSubmissionDep = Annotated[Submission, Depends(_submission)]


@router.post(
    "/generations", name="create_image", response_model=None, responses=_ANSWERS, openapi_extra=_GENERATION_BODY
)
async def generations(
    submission: ImagesSubmissionDep,
    wanted: Annotated[ImageGenerationRequest, Depends(json_fields(ImageGenerationRequest))],
) -> Response:
    """Draw pictures of a class or a prompt, as OpenAI's images API does."""
    return await _answer(submission, wanted, GENERATION)


@router.post("/edits", name="create_image_edit", response_model=None, responses=_ANSWERS, openapi_extra=_EDIT_BODY)
async def edits(submission: ImagesSubmissionDep) -> Response:
    """Draw the transparent part of a picture or of its mask again, as OpenAI's images API does."""
    try:
        wanted, files = await form_fields(submission.request, ImageEditRequest, _FILES, MAX_FILES, as_text=_TEXTS)
    except Problem as problem:
        if problem.code == "repeated" and problem.errors[0].field in ("image", "image[]"):
            raise _several_images() from None
        raise
    return await _answer(submission, wanted, EDIT, _picture(files), files.get("mask"))


def _picture(files: dict[str, bytes]) -> bytes:
    if "markup" in files:
        raise Problem.field("markup", f"is not supported: {REFUSED['markup']}", "not_supported")
    pictures = [files[name] for name in ("image", "image[]") if name in files]
    if not pictures:
        raise Problem.field("image", "is needed: a file, PNG, JPEG or WebP", "missing")
    if len(pictures) > 1:
        raise _several_images()
    return pictures[0]


def _several_images() -> Problem:
    return Problem.field("image", "send one picture: the models can't combine several", "several_images")


async def _answer(
    submission: Submission, wanted: ImagesRequest, face: Face, image: bytes | None = None, mask: bytes | None = None
) -> Response:
    services = submission.services
    check(wanted, face)
    body = Body.of(wanted, image, mask)
    job = await replay(services, submission.client, face.route, submission.key, body.digest)
    if job is None:
        job = await _new_job(submission, wanted, face, body)
    submission.request.state.release_body()  # the answer may take a minute
    if wanted.stream:
        abandoned = partial(cancel_job, services, job) if submission.cancel_on_disconnect else None
        return ImageStreamResponse(services, job, wanted, face, headers_of(submission, job), abandoned)
    return await images_response(submission, job, wanted)


async def _new_job(submission: Submission, wanted: ImagesRequest, face: Face, body: Body) -> Job:
    with refusals_counted(submission.services, wanted.model, face.task):
        served = await submission.services.catalogue.choose(wanted.model)
    task, fields = translated(wanted, face, served.card)
    try:
        with fields_renamed(FIELD_NAMES):
            return await new_job(
                submission, task, replace(body, fields=fields), route=face.route, decide=partial(decided, wanted, face)
            )
    except Problem as problem:
        if problem.code == "no_alpha" and body.mask is None:
            message = "is needed: a PNG whose transparent part is drawn again. The picture itself is opaque"
            raise Problem.field("mask", message, "mask_needed") from None
        raise

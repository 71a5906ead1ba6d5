"""The picture that a request starts from: an upload, or one that this server keeps, with its tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastapi import Request

from engine.card import ModelCard
from service.api.bodies import Body
from service.api.dependencies import choose_model, while_connected
from service.api.job_access import check_room, find_job, find_picture, read_result
from service.auth.keys import Client
from service.errors import Problem
from service.jobs import Job
from service.jobs.catalogue import ServedModel
from service.jobs.result import StoredImage
from service.services import Services
from service.tasks.fields import Source
from service.tasks.pictures.errors import ImageError
from service.tasks.pictures.masks import MaskMode
from service.tasks.pictures.processes.pool import TooBusy
from service.tasks.pictures.reading import Reading, Upload
from service.tasks.pictures.uploads import facts_of
from service.tasks.task import PictureFacts, Task


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """served: the model that is to work on it. facts: for the plan. uploads: the PNGs to store, by what they are."""

    served: ServedModel
    facts: PictureFacts | None = None
    uploads: dict[str, bytes] = field(default_factory=dict)


async def starting_point(services: Services, client: Client, request: Request, body: Body, task: Task) -> StartingPoint:
    """Raises Problem: a field of the body is wrong, or what it names is not kept (any more)."""
    mask_mode: MaskMode | None = body.fields.mask_mode if "mask" in task.files else None
    if body.source is not None:
        return await _from_stored(services, client, request, body, body.source, task, mask_mode)
    served = await choose_model(services, body.fields.model, task.name)
    if body.image is None:
        return StartingPoint(served)
    await check_room(services, client, served.card.name)
    upload = Upload(
        image=body.image, mask=body.mask, mask_mode=mask_mode, grid=served.card.grid, limits=services.limits
    )
    reading = await _read(services, client, request, upload)
    return StartingPoint(served, facts_of(reading, served.card), reading.blobs)


async def _from_stored(
    services: Services,
    client: Client,
    request: Request,
    body: Body,
    source: Source,
    task: Task,
    mask_mode: MaskMode | None,
) -> StartingPoint:
    """What the plan needs of a stored picture is in its job's result: it is not decoded."""
    job, made, png = await _stored(services, client, source)
    served = await choose_model(services, body.fields.model or job.model, task.name)
    _check_tokenizer(job, served.card)
    await check_room(services, client, served.card.name)
    size, cells, blobs = (made.height, made.width), None, {"image": png}
    if mask_mode is not None:
        upload = Upload(size=size, mask=body.mask, mask_mode=mask_mode, grid=made.grid, limits=services.limits)
        reading = await _read(services, client, request, upload)
        cells, blobs = reading.fixed_cells, blobs | reading.blobs
    return StartingPoint(
        served, PictureFacts(size=size, grid=made.grid, fixed_cells=cells, tokens=made.tokens()), blobs
    )


async def _read(services: Services, client: Client, request: Request, upload: Upload) -> Reading:
    """In a decode process, while the client is connected. Raises Problem."""
    try:
        return await while_connected(request, services.uploads.read(upload, client.name))
    except ImageError as error:
        raise Problem.field(error.field, error.message, error.code, status=error.status) from None
    except TooBusy as busy:
        headers = {"Retry-After": str(services.settings.retry_after)}
        raise Problem(503, "uploads_busy", str(busy), headers=headers) from None


async def _stored(services: Services, client: Client, source: Source) -> tuple[Job, StoredImage, bytes]:
    try:
        job = await find_job(services, client, source.job)
        made, png = await find_picture(services, job, source.image)
    except Problem as problem:
        if problem.code == "no_such_image":
            raise Problem.field("source.image", problem.detail, problem.code) from None
        raise Problem.field("source.job", problem.detail, problem.code, status=problem.status) from None
    return job, made, png


def _check_tokenizer(job: Job, card: ModelCard) -> None:
    result = read_result(job)
    if result is None or not result.tokenizer or result.tokenizer != card.tokenizer:
        message = f"its tokens are another tokenizer's than {card.name}'s; send the picture itself, as image"
        raise Problem.field("source.job", message, "other_tokenizer")

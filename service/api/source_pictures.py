"""The picture that a request starts from: an upload, or one that is kept here, with its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.card import ModelCard
from service.api.bodies import Body
from service.api.dependencies import choose_model, in_thread
from service.api.job_access import check_room, find_job, find_picture
from service.auth.keys import Client
from service.errors import Problem
from service.jobs import Job
from service.jobs.catalogue import ServedModel
from service.services import Services
from service.tasks import images
from service.tasks.fields import Source
from service.tasks.uploads import read_image


@dataclass(frozen=True, slots=True)
class Given:
    """pixels uint8 (H, W, 3), with the same as PNG. tokens: rows of columns, where they are known. served: the model
    that is to work on them."""

    pixels: np.ndarray
    png: bytes
    tokens: list[list[int]] | None
    served: ServedModel

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of its tokens; where they are not known, it is fitted to the model's."""
        return self.served.card.grid if self.tokens is None else (len(self.tokens), len(self.tokens[0]))


async def picture_of(services: Services, client: Client, body: Body[Any], task: str) -> Given:
    """Raises Problem: a field of the body is wrong, or what it names is not there (any more)."""
    if body.source is None:
        assert body.image is not None
        served = await choose_model(services, body.fields.model, task)
        await check_room(services, client, served.card.name)
        pixels, png = await in_thread(services, read_image, body.image, services.limits)
        return Given(pixels, png, None, served)
    job, made, png = await _stored(services, client, body.source)
    served = await choose_model(services, body.fields.model or job.model, task)
    _check_tokenizer(job, served.card)
    await check_room(services, client, served.card.name)
    pixels = await in_thread(services, images.decode_image, png, "source", services.limits)
    return Given(pixels, png, made["tokens"], served)


async def _stored(services: Services, client: Client, source: Source) -> tuple[Job, dict[str, Any], bytes]:
    try:
        job = await find_job(services, client, source.job)
        made, png = await find_picture(services, job, source.image)
    except Problem as problem:
        if problem.code == "no_such_image":
            raise Problem.field("source.image", problem.detail, problem.code) from None
        raise Problem.field("source.job", problem.detail, problem.code, status=problem.status) from None
    return job, made, png


def _check_tokenizer(job: Job, card: ModelCard) -> None:
    tokenizer = (job.result or {}).get("tokenizer")
    if not tokenizer or tokenizer != card.tokenizer:
        message = f"its tokens are another tokenizer's than {card.name}'s; send the picture itself, as image"
        raise Problem.field("source.job", message, "other_tokenizer")

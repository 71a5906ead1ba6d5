"""A picture that nobody wants: drawn through the queue, as a client's would be, to see whether that still works."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from engine.card import ModelCard
from service.api.create_job import job_id
from service.api.job_access import cancel_job, until_finished
from service.auth.keys import Client
from service.jobs import FINAL_STATES, NewJob, QueueFull
from service.jobs.catalogue import ServedModel
from service.services import Services
from service.tasks.fields import GenerateRequest
from service.tasks.sampling import cost, resolve

CANARY = Client(name="canary")
PATIENCE = 30.0
"""Seconds that a picture may take, its time in the queue included."""


async def run_canary(services: Services) -> dict[str, dict[str, Any]]:
    """By model: `status` as of a job, or why there was none, and `seconds`."""
    served = await services.catalogue.models()
    sung = await asyncio.gather(*(_sing(services, one) for one in served.values()))
    return dict(zip(served, sung, strict=True))


async def _sing(services: Services, served: ServedModel) -> dict[str, Any]:
    began, card = time.monotonic(), served.card
    payload = resolve(_smallest(card), card, "generate") | {"digest": ""}
    new = NewJob(
        id=job_id(CANARY, "canary", None),
        model=card.name,
        client=CANARY.name,
        cost=cost(payload, card, served.capacity),
        payload=payload,
        priority="high",
    )
    try:
        await services.queue.submit(new)
    except QueueFull as full:
        return {"status": "refused", "error": str(full), "seconds": 0.0}
    job = await services.queue.job(new.id)
    if job is not None:
        job = await until_finished(services, job, PATIENCE)
        if job.state not in FINAL_STATES:
            await cancel_job(services, job)
    said: dict[str, Any] = {"status": job.state if job else "lost", "seconds": round(time.monotonic() - began, 3)}
    if job is not None and job.error is not None:
        said["error"] = job.error["code"]
    if job is not None and job.result is not None:
        said["timings"] = job.result["timings"]
    return said


def _smallest(card: ModelCard) -> GenerateRequest:
    fields = {"model": card.name, "seed": 0, "steps": 1 if "steps" in card.settings else None}
    return GenerateRequest.model_validate(fields)

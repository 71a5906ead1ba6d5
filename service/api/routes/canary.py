"""The canary: a test picture that each model draws through the queue, as for a client, to check the whole path."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from engine.card import ModelCard
from service import logs
from service.api.create_job import new_job_id
from service.api.job_access import cancel_job, read_result, until_finished
from service.auth.keys import Client
from service.jobs import FINAL_STATES, NewJob, QueueFull
from service.jobs.catalogue import ServedModel
from service.jobs.spec import encode
from service.services import Services
from service.tasks.generate import GenerateRequest, plan
from service.tasks.planning import cost

CANARY = Client(name="canary")
TIMEOUT = 30.0
"""Seconds that a picture may take, including its time in the queue."""


async def run_canary(services: Services) -> dict[str, dict[str, Any]]:
    """By model: `seconds`, and as `status` the state of its job, or `refused` or `lost`."""
    served = await services.catalogue.models()
    reports = await asyncio.gather(*(_draw(services, one) for one in served.values()))
    return dict(zip(served, reports, strict=True))


async def _draw(services: Services, served: ServedModel) -> dict[str, Any]:
    began, card = time.monotonic(), served.card
    spec = plan(_smallest(card), None, card)
    new = NewJob(
        id=new_job_id(),
        model=card.name,
        client=CANARY.name,
        cost=cost(spec, card, served.capacity),
        spec=encode(spec),
        priority="high",
        request_id=logs.known("request_id"),
    )
    try:
        await services.queue.submit(new)
    except QueueFull as full:
        return {"status": "refused", "error": str(full), "seconds": 0.0}
    job = await services.queue.job(new.id)
    if job is not None:
        job = await until_finished(services, job, TIMEOUT)
        if job.state not in FINAL_STATES:
            await cancel_job(services, job)
    report: dict[str, Any] = {"status": job.state if job else "lost", "seconds": round(time.monotonic() - began, 3)}
    if job is not None and job.error is not None:
        report["error"] = job.error["code"]
    if job is not None and (result := read_result(job)) is not None:
        report["timings"] = result.timings
    return report


def _smallest(card: ModelCard) -> GenerateRequest:
    fields = {"model": card.name, "seed": 0, "steps": 1 if "steps" in card.settings else None}
    return GenerateRequest.model_validate(fields)

"""Jobs and their pictures, by id; or the problem with them."""

from __future__ import annotations

from typing import Any

from service.api.services import Services
from service.api.view import expired
from service.keys import Client
from service.problems import Problem
from service.queue import Job


async def find_job(services: Services, client: Client, id: str) -> Job:
    """Raises Problem: 404 where there never was one, 410 where there is none any more. Another client's is as if there
    were none."""
    job = await services.queue.job(id)
    if job is not None and job.client == client.name:
        return job
    if expired(id, services.queue.config.result_ttl_seconds):
        raise Problem(410, "expired", "the job has expired: it and its pictures are no longer kept")
    raise Problem(404, "unknown_job", "there is no job with this id")


async def find_picture(services: Services, job: Job, index: int) -> tuple[dict[str, Any], bytes]:
    """What the job's result says of a picture, and the picture as PNG. Raises Problem where the job has no such picture
    (yet, or any more)."""
    must_have_succeeded(job)
    made = {image["index"]: image for image in (job.result or {})["images"]}
    if index not in made:
        raise Problem(404, "no_such_image", f"the job has {len(made)} pictures, counted from 0")
    png = await services.blobs.get(made[index]["blob"])
    if png is None:
        raise Problem(410, "expired", "the picture is no longer kept")
    return made[index], png


def must_have_succeeded(job: Job) -> None:
    """Raises Problem."""
    if job.state == "failed":
        error = job.error or {"code": "failed", "message": "no reason was given"}
        raise Problem(409, error["code"], f"the job failed: {error['message']}")
    if job.state == "canceled":
        raise Problem(409, "canceled", "the job was cancelled; it has no picture")
    if job.state != "succeeded":
        headers = {"Retry-After": "1"}
        raise Problem(409, "not_done_yet", f"the job is {job.state}; its picture is not there yet", headers=headers)

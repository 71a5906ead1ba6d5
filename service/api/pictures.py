"""A finished picture as a response, in the format asked for."""

from __future__ import annotations

import re

from fastapi.responses import Response

from service import images
from service.api.services import Services
from service.api.uploads import in_thread
from service.images import MEDIA_TYPES, Format
from service.problems import Problem
from service.queue import Job

_UNSAFE = re.compile(r"[^A-Za-z0-9]+")


async def picture_response(services: Services, job: Job, index: int, format: Format) -> Response:
    """Raises Problem when the job has no such picture (yet, or any more)."""
    _must_have_succeeded(job)
    made = {image["index"]: image for image in (job.result or {})["images"]}
    if index not in made:
        raise Problem(404, "no_such_image", f"the job has {len(made)} pictures, counted from 0")
    png = await services.blobs.get(made[index]["blob"])
    if png is None:
        raise Problem(410, "expired", "the picture is no longer kept")
    quality = job.payload["quality"]
    data = png if format == "png" else await in_thread(services, images.transcode, png, format, quality)
    return Response(
        data,
        media_type=MEDIA_TYPES[format],
        headers={
            # What a URL shows never changes, but it expires with its job.
            "Cache-Control": "private, max-age=3600",
            "Vary": "Accept",
            "Content-Disposition": f'inline; filename="{_name(job, made[index]["seed"], format)}"',
            "X-Job-ID": job.id,
            "X-Seed": str(made[index]["seed"]),
        },
    )


def _must_have_succeeded(job: Job) -> None:
    if job.state == "failed":
        error = job.error or {"code": "failed", "message": "no reason was given"}
        raise Problem(409, error["code"], f"the job failed: {error['message']}")
    if job.state == "canceled":
        raise Problem(409, "canceled", "the job was cancelled; it has no picture")
    if job.state != "succeeded":
        headers = {"Retry-After": "1"}
        raise Problem(409, "not_done_yet", f"the job is {job.state}; its picture is not there yet", headers=headers)


def _name(job: Job, seed: int, format: Format) -> str:
    parts = (job.model, job.payload["class_name"] or job.payload["task"], str(seed))
    return "-".join(_UNSAFE.sub("_", part) for part in parts) + "." + {"jpeg": "jpg"}.get(format, format)

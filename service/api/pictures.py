"""A finished picture as a response, in the format asked for."""

from __future__ import annotations

import re

from fastapi.responses import Response

from service import images
from service.api.lookup import find_picture
from service.api.services import Services
from service.api.uploads import in_thread
from service.images import MEDIA_TYPES, Format
from service.queue import Job

_UNSAFE = re.compile(r"[^A-Za-z0-9]+")


async def picture_response(services: Services, job: Job, index: int, format: Format) -> Response:
    """Raises Problem when the job has no such picture (yet, or any more)."""
    made, png = await find_picture(services, job, index)
    quality = job.payload["quality"]
    data = png if format == "png" else await in_thread(services, images.transcode, png, format, quality)
    return Response(
        data,
        media_type=MEDIA_TYPES[format],
        headers={
            # What a URL shows never changes, but it expires with its job.
            "Cache-Control": "private, max-age=3600",
            "Vary": "Accept",
            "Content-Disposition": f'inline; filename="{_name(job, made["seed"], format)}"',
            "X-Job-ID": job.id,
            "X-Seed": str(made["seed"]),
        },
    )


def _name(job: Job, seed: int, format: Format) -> str:
    parts = (job.model, job.payload["class_name"] or job.payload["task"], str(seed))
    return "-".join(_UNSAFE.sub("_", part) for part in parts) + "." + {"jpeg": "jpg"}.get(format, format)

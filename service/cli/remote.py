"""The drawing commands with --server: a server draws, and this process follows the job and saves its pictures."""

from __future__ import annotations

import io
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from service.cli.output import Drawn, Result, format_of
from service.cli.terminal.progress import Progress
from service.client import APIError, Client, Job, Queued, Started, Tokens, UnauthorizedError
from service.client.jobs import succeeded
from service.jobs.result import JobWarning
from service.tasks.registry import TASKS


class RemoteError(Exception):
    """The server did not draw. code, field: as the API names them."""

    def __init__(self, message: str, code: str, field: str | None) -> None:
        super().__init__(message)
        self.code, self.field = code, field


def draw(arguments: Namespace) -> Result:
    """Raises RemoteError, OSError. An interrupt cancels the job."""
    try:
        with Client(arguments.server, api_key=arguments.api_key) as client, Progress() as progress:
            return _draw(client, arguments, progress)
    except APIError as error:
        remedy = "; set ARPG_API_KEY or --api-key" if isinstance(error, UnauthorizedError) else ""
        message = error.message.replace("those under /v1/", f"those under {arguments.server.rstrip('/')}/v1/")
        raise RemoteError(f"{message}{remedy}", error.code, getattr(error, "field", None)) from error


def _draw(client: Client, arguments: Namespace, progress: Progress) -> Result:
    began = time.monotonic()
    progress.say(f"asking {arguments.server}")
    job = _submitted(client, arguments)
    try:
        _follow(client, job, progress, _original(arguments))
        job = succeeded(client.job(job))
    except KeyboardInterrupt:
        client.cancel(job)
        raise
    format, pictures = format_of(arguments.output), []
    for index, image in enumerate(job.images):
        file = client.picture(job, index, format=format)
        pictures.append(Drawn(file, image.seed, image.width, image.height))
    progress.finish([np.asarray(Image.open(io.BytesIO(picture.file)).convert("RGB")) for picture in pictures])
    return Result(
        task=job.task,
        model=job.model,
        seconds=time.monotonic() - began,
        pictures=pictures,
        warnings=[JobWarning(**asdict(warning)) for warning in job.warnings],
        server=arguments.server,
        job=job.id,
    )


def _submitted(client: Client, arguments: Namespace) -> Job:
    task = TASKS[arguments.command]
    fields: dict[str, Any] = arguments.fields.model_dump(exclude_unset=True)
    if arguments.models:
        [fields["model"]] = arguments.models
    files = [path.read_bytes() for name in task.files if (path := getattr(arguments, name)) is not None]
    submit: Callable[..., Job] = getattr(client, task.name)
    return submit(*files, **fields)


def _original(arguments: Namespace) -> Image.Image | None:
    """Of an edit whose result has the same canvas."""
    return Image.open(arguments.image) if arguments.command in ("inpaint", "vary") else None


def _follow(client: Client, job: Job, progress: Progress, original: Image.Image | None) -> None:
    palette = _palette(client, job.model) if progress.colours is not None else None
    for event in client.events(job):
        match event:
            case Queued():
                ahead = event.position
                progress.say(
                    "waits for a worker"
                    if not ahead
                    else f"waits: {ahead} {'job is' if ahead == 1 else 'jobs are'} ahead"
                )
            case Started():
                progress.start([np.full(event.grid, -1, dtype=np.int32)] * event.images, palette, original)
            case Tokens():
                progress.draw(event.image_index, event)


def _palette(client: Client, model: str) -> np.ndarray | None:
    """uint8 (codes, h, w, 3). None: the server has none yet, so no picture is shown."""
    try:
        palette = client.palette(model)
    except APIError:
        return None
    shape = palette.codes, palette.height, palette.width, 3
    return np.frombuffer(palette.rgb, dtype=np.uint8).reshape(shape)

"""A job of one picture as OpenAI's event stream: partial images, then the picture.

The events have no ids: OpenAI's clients can't resume, and their decoder fails at a keep-alive block after an id. So a
heartbeat is a comment of one line, which belongs to the next event.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.to_thread

from service.api.job_access import find_picture, read_spec
from service.api.openai.errors import error_body
from service.api.openai.partial import half_drawn, shown
from service.api.openai.responses import common_fields, created, succeeded, usage, warnings
from service.api.openai.schemas import ImagesRequest
from service.api.openai.translation import Face
from service.api.sse import EventStreamResponse, encode
from service.errors import Problem
from service.jobs import Event, Job, Lagged
from service.jobs.messages import encode_event
from service.services import Services
from service.tasks.pictures import images

HEARTBEAT = b": heartbeat\n"


class ImageStreamResponse(EventStreamResponse):
    """An error after the first byte is an event with `error`, which OpenAI's clients raise.

    At least one partial image is sent where partial images are wanted: if the worker's previews come too late, the
    finished picture is shown as it was half drawn.
    """

    def __init__(
        self,
        services: Services,
        job: Job,
        wanted: ImagesRequest,
        face: Face,
        headers: dict[str, str],
        abandoned: Callable[[], Awaitable[object]] | None,
    ) -> None:
        """abandoned: as for EventStreamResponse."""
        settings = services.settings
        super().__init__(
            services.hub.follow(job.id),
            lambda event: b"",
            headers,
            heartbeat=settings.heartbeat,
            life=settings.stream_life,
            streams=services.metrics.http_streams,
            abandoned=abandoned,
        )
        self._retry = b""  # these clients don't reconnect
        self._services = services
        self._job = job
        self._face = face
        self._spec = read_spec(job)
        self._common = common_fields(wanted, self._spec)
        self._partial_images = wanted.partial_images or 0
        self._sent = 0  # partial images
        self._drawn: list[int] = []  # cells, in drawing order
        self._after: str | None = None
        self._address = headers["Location"]

    async def _next(self, seconds: float) -> list[Event]:
        try:
            return await self._watch.next(seconds)
        except Lagged:  # while a picture was on its way; Redis holds the events
            await self._watch.close()
            self._watch = self._services.hub.follow(self._job.id, self._after)
            return []

    async def _say(self, events: list[Event]) -> None:
        for event in events:
            try:
                if event.name == "tokens":
                    self._drawn += event.json()["positions"]
                elif event.name == "started":  # again, if another worker has taken over
                    self._drawn.clear()
                elif event.name == "preview" and self._sent < self._partial_images:
                    await self._send_partial(await self._in_thread(self._preview, event.json()["b64_json"]))
                elif event.name in ("completed", "failed", "canceled"):
                    await self._finish()
            except Problem as problem:
                await self._say_last(_error(problem))
                return
            self._after = event.id

    async def _finish(self) -> None:
        """Raises Problem."""
        services, job = self._services, await self._services.queue.job(self._job.id) or self._job
        result = succeeded(job)
        image, png = await find_picture(services, job, 0)
        if self._partial_images and not self._sent:
            await self._send_partial(await self._in_thread(self._half_drawn, png))
        fields = {"created_at": created(job), **self._common, "usage": usage(result, self._spec), "seed": image.seed}
        del fields["usage"]["output_tokens_details"]  # a response has them, an event has not
        fields |= warnings(result)
        await self._send("completed", await self._in_thread(self._file, png), fields)

    async def _send_partial(self, b64_json: str) -> None:
        fields = {"partial_image_index": self._sent, "created_at": int(time.time()), **self._common}
        self._sent += 1
        await self._send("partial_image", b64_json, fields)

    async def _send(self, what: str, b64_json: str, fields: dict[str, Any]) -> None:
        name = f"{self._face.event}.{what}"
        frame = encode(name, encode_event({"type": name, "b64_json": b64_json, **fields}))
        await self._body.send(self._pieces([frame]))

    async def _in_thread(self, work: Callable[..., str], *arguments: Any) -> str:
        async with self._services.transcoding.place(self._job.client):
            return await anyio.to_thread.run_sync(work, *arguments)

    def _preview(self, b64_json: str) -> str:
        return shown(base64.b64decode(b64_json), self._spec)

    def _half_drawn(self, png: bytes) -> str:
        cells = self._spec.fixed_cells.copy()
        cells.flat[self._drawn[: len(self._drawn) // 2]] = True
        return half_drawn(png, cells, self._spec)

    def _file(self, png: bytes) -> str:
        output = self._spec.output
        file = png if output.format == "png" else images.transcode(png, output.format, output.quality)
        return base64.b64encode(file).decode()

    def _beat(self) -> bytes:
        return HEARTBEAT

    def _reconnect(self) -> bytes:
        return self._failure(504, "not_done_yet", f"not done within {self._life:g} s")

    def _failure(self, status: int, code: str, message: str) -> bytes:
        return _error(Problem(status, code, f"{message}; the job goes on, or has ended: see {self._address}"))


def _error(problem: Problem) -> bytes:
    return encode("error", encode_event(error_body(problem)))

"""The client that blocks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from service.client import calls
from service.client.calls import Call, File, JobOrId, Source
from service.client.connection import (
    BASE_URL,
    MAX_RECONNECTS,
    MAX_RETRIES,
    TIMEOUT,
    arguments,
    lost,
    options,
    stream_timeout,
)  # fmt: skip
from service.client.errors import APIError, error_of
from service.client.events import Event
from service.client.fields import ExpandFields, ForkFields, GenerateFields, InpaintFields, OutpaintFields, VaryFields
from service.client.jobs import Job, Model, Palette, succeeded
from service.client.retries import Retries
from service.client.stream import Stream


class Client:
    """A client of one server. Threads may share it. Every method raises an `APIError` of one kind or another."""

    def __init__(
        self,
        base_url: str = BASE_URL,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT,
        max_retries: int = MAX_RETRIES,
        max_reconnects: int = MAX_RECONNECTS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """
        base_url: the server, with the path that a proxy puts in front of `/v1`, if there is one.
        api_key: default: the environment's ARPG_API_KEY.
        timeout: seconds to connect, and for each read and write; events have a longer one of their own.
        max_retries: how often a request is repeated after a lost connection, 429, 502, 503 or 504.
        max_reconnects: how often in a row an event stream is connected again before an event comes.
        transport: httpx's, for proxies and certificates.
        Raises ValueError if base_url is no address.
        """
        self._max_retries, self._max_reconnects = max_retries, max_reconnects
        self._http = httpx.Client(**options(base_url, api_key, timeout), transport=transport)

    # ---- drawing -----------------------------------------------------------------------------------------------------

    def generate(self, **fields: Unpack[GenerateFields]) -> Job:
        """Draws n pictures of a class or of a prompt. The job is queued; `wait` and `events` follow it."""
        return self._job(calls.drawing("generate", fields))

    def expand(self, width: int, height: int, **fields: Unpack[ExpandFields]) -> Job:
        """Draws on a larger grid than the model was trained on. width, height: pixels, whole tokens."""
        return self._job(calls.drawing("expand", {**fields, "width": width, "height": height}))

    def inpaint(self, image: File | Source, mask: File | None = None, **fields: Unpack[InpaintFields]) -> Job:
        """Redraws what the mask selects. mask: of the picture's shape; None with mask_mode="alpha": the picture's
        transparency."""
        return self._job(calls.editing("inpaint", image, mask, fields))

    def outpaint(self, image: File | Source, **fields: Unpack[OutpaintFields]) -> Job:
        """Draws beyond the picture's borders."""
        return self._job(calls.editing("outpaint", image, None, fields))

    def vary(self, image: File | Source, **fields: Unpack[VaryFields]) -> Job:
        """Keeps a share of the picture's tokens and draws the rest again."""
        return self._job(calls.editing("vary", image, None, fields))

    def fork(self, job: JobOrId, step: int, **fields: Unpack[ForkFields]) -> Job:
        """Draws pictures that share the first steps of one of the job's. The job may still run."""
        return self._job(calls.forking(job, {**fields, "step": step}))

    # ---- following ---------------------------------------------------------------------------------------------------

    def job(self, job: JobOrId) -> Job:
        """As it is now."""
        return self._job(Call("GET", calls.job_path(job)))

    def events(self, job: JobOrId, *, after: str | None = None) -> Iterator[Event]:
        """The job's events until it ends, each of them once. A lost connection is resumed after the last event that
        came. after: an event's id, to resume what another process began to read."""
        stream = Stream(job, after, self._max_reconnects)
        while not stream.ended:
            error: APIError | None = None
            try:
                with self._http.stream(**arguments(stream.call), timeout=stream_timeout(self._http)) as response:
                    if response.is_success:
                        stream.opened(response.status_code)
                        for piece in response.iter_bytes():
                            yield from stream.receive(piece)
                            if stream.ended:
                                return
                    else:
                        response.read()
                        error = error_of(response)
            except httpx.HTTPError as failure:
                error = lost(self._http.base_url, failure)
            if not stream.ended:
                time.sleep(stream.closed(error))

    def wait(self, job: JobOrId) -> Job:
        """The job once it has succeeded. Raises JobFailedError, JobCanceledError."""
        for _ in self.events(job):
            pass
        return succeeded(self.job(job))

    def cancel(self, job: JobOrId) -> Job:
        """A job that has ended stays as it is. A running one ends soon: `events` tells when."""
        return self._job(Call("DELETE", calls.job_path(job)))

    # ---- pictures and models -----------------------------------------------------------------------------------------

    def picture(self, job: JobOrId, index: int = 0, *, format: str | None = None) -> bytes:
        """A finished picture as a file. format: png, jpeg or webp; default: the job's own."""
        return self._send(calls.picture(job, index, format)).content

    def save(self, job: JobOrId, path: str | Path, index: int = 0) -> None:
        """Writes a finished picture in the format that the path's extension names. Raises ValueError, OSError."""
        format = calls.format_of(path)
        Path(path).write_bytes(self.picture(job, index, format=format))

    def models(self) -> list[Model]:
        """The models that are served now."""
        return [Model.of(one) for one in self._send(Call("GET", "/v1/models")).json()["models"]]

    def palette(self, model: str) -> Palette:
        return Palette.of(self._send(Call("GET", calls.model_path(model, "palette"))).json())

    # ---- connection --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _job(self, call: Call) -> Job:
        return Job.of(self._send(call).json())

    def _send(self, call: Call) -> httpx.Response:
        retries = Retries(self._max_retries)
        sent: dict[str, Any] = arguments(call)
        while True:
            try:
                response = self._http.request(**sent)
                error: APIError | None = error_of(response)
                if error is None:
                    return response
            except httpx.HTTPError as failure:
                error = lost(self._http.base_url, failure)
            time.sleep(retries.pause(error))

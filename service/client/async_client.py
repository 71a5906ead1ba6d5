"""The client for asyncio and trio. Its methods are those of `Client`, which describes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

import anyio
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


class AsyncClient:
    """A client of one server, for one event loop; its tasks may share it."""

    def __init__(
        self,
        base_url: str = BASE_URL,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT,
        max_retries: int = MAX_RETRIES,
        max_reconnects: int = MAX_RECONNECTS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """As `Client`."""
        self._max_retries, self._max_reconnects = max_retries, max_reconnects
        self._http = httpx.AsyncClient(**options(base_url, api_key, timeout), transport=transport)

    # ---- drawing -----------------------------------------------------------------------------------------------------

    async def generate(self, **fields: Unpack[GenerateFields]) -> Job:
        return await self._job(calls.drawing("generate", fields))

    async def expand(self, width: int, height: int, **fields: Unpack[ExpandFields]) -> Job:
        return await self._job(calls.drawing("expand", {**fields, "width": width, "height": height}))

    async def inpaint(self, image: File | Source, mask: File | None = None, **fields: Unpack[InpaintFields]) -> Job:
        return await self._job(calls.editing("inpaint", image, mask, fields))

    async def outpaint(self, image: File | Source, **fields: Unpack[OutpaintFields]) -> Job:
        return await self._job(calls.editing("outpaint", image, None, fields))

    async def vary(self, image: File | Source, **fields: Unpack[VaryFields]) -> Job:
        return await self._job(calls.editing("vary", image, None, fields))

    async def fork(self, job: JobOrId, step: int, **fields: Unpack[ForkFields]) -> Job:
        return await self._job(calls.forking(job, {**fields, "step": step}))

    # ---- following ---------------------------------------------------------------------------------------------------

    async def job(self, job: JobOrId) -> Job:
        return await self._job(Call("GET", calls.job_path(job)))

    async def events(self, job: JobOrId, *, after: str | None = None) -> AsyncGenerator[Event, None]:
        """A loop that leaves early keeps the connection until the generator is closed: `contextlib.aclosing`."""
        stream = Stream(job, after, self._max_reconnects)
        while not stream.ended:
            error: APIError | None = None
            try:
                sent = self._http.stream(**arguments(stream.call), timeout=stream_timeout(self._http))
                async with sent as response:
                    if response.is_success:
                        stream.opened(response.status_code)
                        async for piece in response.aiter_bytes():
                            for event in stream.receive(piece):
                                yield event
                            if stream.ended:
                                return
                    else:
                        await response.aread()
                        error = error_of(response)
            except httpx.HTTPError as failure:
                error = lost(self._http.base_url, failure)
            if not stream.ended:
                await anyio.sleep(stream.closed(error))

    async def wait(self, job: JobOrId) -> Job:
        async for _ in self.events(job):
            pass
        return succeeded(await self.job(job))

    async def cancel(self, job: JobOrId) -> Job:
        return await self._job(Call("DELETE", calls.job_path(job)))

    # ---- pictures and models -----------------------------------------------------------------------------------------

    async def picture(self, job: JobOrId, index: int = 0, *, format: str | None = None) -> bytes:
        return (await self._send(calls.picture(job, index, format))).content

    async def save(self, job: JobOrId, path: str | Path, index: int = 0) -> None:
        format = calls.format_of(path)
        content = await self.picture(job, index, format=format)
        await anyio.Path(path).write_bytes(content)

    async def models(self) -> list[Model]:
        return [Model.of(one) for one in (await self._send(Call("GET", "/v1/models"))).json()["models"]]

    async def palette(self, model: str) -> Palette:
        return Palette.of((await self._send(Call("GET", calls.model_path(model, "palette")))).json())

    # ---- connection --------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _job(self, call: Call) -> Job:
        return Job.of((await self._send(call)).json())

    async def _send(self, call: Call) -> httpx.Response:
        retries = Retries(self._max_retries)
        sent: dict[str, Any] = arguments(call)
        while True:
            try:
                response = await self._http.request(**sent)
                error: APIError | None = error_of(response)
                if error is None:
                    return response
            except httpx.HTTPError as failure:
                error = lost(self._http.base_url, failure)
            await anyio.sleep(retries.pause(error))

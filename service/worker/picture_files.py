"""The files of a job: the pictures that it starts from, and those that it makes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from service.jobs import BlobStore
from service.jobs.spec import JobSpec
from service.tasks import drawing
from service.tasks.drawing import FinishedPicture
from service.tasks.pictures.inputs import canvas_with, fitted_image, must_encode, open_inputs
from service.worker.preview import preview
from service.worker.retry import retry_transient
from service.worker.threads.codec_thread import CodecThread
from service.worker.threads.large_pictures import LARGE, LargePictures, Turn
from service.worker.threads.picture_queue import Kind

if TYPE_CHECKING:
    from engine.card import ModelCard
    from engine.codec.codec import Codec
    from engine.request import Request


class PictureFiles:
    """Holds no pixels while the job waits or is drawn: what it starts from is read from the blob store when it is
    needed, and a second time when a picture is composited into it.

    Small pictures are made on the codec's thread. Large ones have turns on threads of their own, so that nobody else's
    picture waits for them; only what their decoder or encoder does is done on the codec's thread, if it is little.
    """

    def __init__(
        self,
        spec: JobSpec,
        client: str,
        *,
        card: ModelCard,
        codec: Codec,
        blobs: BlobStore,
        codec_thread: CodecThread,
        large_pictures: LargePictures,
    ) -> None:
        self._spec = spec
        self._client = client
        self._card = card
        self._codec = codec
        self._blobs = blobs
        self._codec_thread = codec_thread
        self._large_pictures = large_pictures
        canvas = spec.grid[0] * spec.grid[1] * card.stride**2
        self._large_canvas = canvas > LARGE
        self._pixels = max(spec.size[0] * spec.size[1], canvas)

    async def canvas(self) -> np.ndarray:
        """int32 grid: the picture's tokens where they are fixed, EMPTY elsewhere. Raises BadUpload."""
        if not must_encode(self._spec):
            return canvas_with(self._spec, None)
        if self._pixels <= LARGE:
            blobs = await self._read("image")
            return await self._codec_thread.call("source", self._client, self._encoded, blobs)
        async with self._turn("source") as turn:
            if self._large_canvas:
                return await turn.call(self._encoded, await self._read("image"))
            fitted = await turn.call(self._fitted, await self._read("image"))
        tokens = await self._codec_thread.call("source", self._client, self._codec.encode, fitted)
        return canvas_with(self._spec, tokens)

    @contextlib.asynccontextmanager
    async def finished(self, request: Request, tokens: np.ndarray) -> AsyncIterator[FinishedPicture]:
        """The file of a full token map (rows, cols), as long as it takes to store it. request: as
        `drawing.requests` made it. Raises BadUpload."""
        codec, thread, client = self._codec, self._codec_thread, self._client
        if self._pixels <= LARGE:
            finish = partial(self._finish, request, tokens, await self._sources())
            yield await thread.picture(client, codec, tokens, finish)
            return
        drawn = None if self._large_canvas else await thread.picture(client, codec, tokens, _as_it_is)
        async with self._turn("finished") as turn:
            finish = partial(self._finish, request, tokens, await self._sources())
            yield await turn.call(lambda: finish(codec.decode(tokens) if drawn is None else drawn))

    async def preview(self, tokens: np.ndarray) -> str:
        """Base64 of a JPEG. tokens: int (rows, cols), EMPTY where nothing is drawn."""
        if not self._large_canvas:
            return await self._codec_thread.call("preview", self._client, preview, tokens, self._codec)
        async with self._turn("preview") as turn:
            return await turn.call(preview, tokens, self._codec)

    def _turn(self, kind: Kind) -> contextlib.AbstractAsyncContextManager[Turn]:
        return self._large_pictures.turn(kind, self._client, self._pixels)

    async def _sources(self) -> Mapping[str, bytes | None]:
        """What a picture is composited into."""
        return {} if self._spec.compose is None else await self._read(*self._spec.blobs)

    async def _read(self, *whats: str) -> Mapping[str, bytes | None]:
        names = {what: name for what, name in self._spec.blobs.items() if what in whats}
        return {
            what: await retry_transient("reading an upload", partial(self._blobs.get, name))
            for what, name in names.items()
        }

    # These block.

    def _fitted(self, blobs: Mapping[str, bytes | None]) -> np.ndarray:
        return fitted_image(self._spec, open_inputs(blobs), self._codec.stride)

    def _encoded(self, blobs: Mapping[str, bytes | None]) -> np.ndarray:
        return canvas_with(self._spec, self._codec.encode(self._fitted(blobs)))

    def _finish(
        self, request: Request, tokens: np.ndarray, blobs: Mapping[str, bytes | None], drawn: np.ndarray
    ) -> FinishedPicture:
        inputs = open_inputs(blobs, reused=False)
        return drawing.finish(self._spec, request, tokens, drawn, inputs=inputs, card=self._card)


def _as_it_is(drawn: np.ndarray) -> np.ndarray:
    return drawn

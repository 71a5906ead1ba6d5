"""The pictures of one attempt at a job: payload → requests → tokens → stored pictures."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from engine.drawing import UNKNOWN
from service.queue import Blobs, Claim, cancelled
from service.worker import pictures
from service.worker.engine_thread import EngineThread, Ticket
from service.worker.outages import insist
from service.worker.pictures import Upload
from service.worker.publisher import Attempt, Publisher

if TYPE_CHECKING:
    from engine.card import ModelCard
    from engine.codec import Codec
    from engine.engine import Update

log = logging.getLogger(__name__)

T = TypeVar("T")
InThread = Callable[..., Awaitable[Any]]


class Canvas:
    """The tokens of one picture as they come."""

    def __init__(self, grid: tuple[int, int]) -> None:
        self.tokens = np.full(grid, UNKNOWN, dtype=np.int32)
        self.drawn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.previewing = False


class Canvases:
    """Codec calls go through `in_thread`, beside the engine's steps. Everything else is for the event loop."""

    def __init__(
        self,
        claim: Claim,
        *,
        card: ModelCard,
        codec: Codec,
        engine: EngineThread,
        blobs: Blobs,
        publisher: Publisher,
        in_thread: InThread,
    ) -> None:
        self.upload: Upload | None = None
        self.steps = 0  # that each picture takes, known when they start
        self.tokens_drawn = 0
        self.first_tokens_at: float | None = None
        self.last_tokens_at: float | None = None
        self._key: Attempt = (claim.id, claim.attempt)
        self._payload = claim.payload
        self._card = card
        self._codec = codec
        self._engine = engine
        self._blobs = blobs
        self._publisher = publisher
        self._in_thread = in_thread
        self._canvases = [Canvas(card.grid) for _ in range(claim.payload["n"])]
        self._parts: set[asyncio.Task[Any]] = set()  # pictures and previews in the making

    def __len__(self) -> int:
        return len(self._canvases)

    async def draw(self) -> list[dict[str, Any]]:
        """The stored images, as the job's result lists them. Raises what made one of them fail."""
        payload = self._payload
        if payload["task"] == "inpaint":
            image, mask = [await self._blob(payload[name]) for name in ("image", "mask")]
            feather = payload["feather"]
            self.upload = await self._in_thread(pictures.read_upload, image, mask, self._card, self._codec, feather)
        known = {} if self.upload is None else self.upload.known
        for canvas in self._canvases:
            canvas.tokens.ravel()[list(known)] = list(known.values())
        self.steps = self._card.steps or min(payload["steps"], self._card.positions - len(known))
        started = {
            "attempt": self._key[1],
            "images": len(self),
            "grid": list(self._card.grid),
            "steps": self.steps,
            "known": len(known),
        }
        self._publisher.started(self._key, started)
        for index in range(len(self)):
            self._engine.add(Ticket(*self._key, index), pictures.request_of(payload, index, known))
        return await asyncio.gather(*(self._part(self._picture(index)) for index in range(len(self))))

    def refused(self, image: int, error: Exception) -> None:
        drawn = self._canvases[image].drawn
        if not drawn.done():
            drawn.set_exception(error)

    def update(self, image: int, update: Update) -> None:
        """What a step drew: onto the canvas, and on its way to whoever watches."""
        canvas = self._canvases[image]
        if canvas.drawn.done():  # stopped, while the engine took a last step of it
            return
        canvas.tokens.ravel()[list(update.positions)] = update.tokens
        self.tokens_drawn += len(update.tokens)
        self.last_tokens_at = time.monotonic()
        self.first_tokens_at = self.first_tokens_at or self.last_tokens_at
        data = {
            "image_index": image,
            "step": update.step,
            "steps": update.steps,
            "positions": list(update.positions),
            "tokens": list(update.tokens),
            "n_done": update.n_done,
            "n_total": update.n_total,
        }
        self._publisher.tokens(self._key, data)
        every = self._payload["previews"]
        if update.finished:
            canvas.drawn.set_result(None)
        elif every and update.step % every == 0 and not canvas.previewing:
            canvas.previewing = True  # one at a time: previews never queue up behind a slow codec
            self._part(self._preview(image, canvas, canvas.tokens.copy(), update.step))

    async def stop(self) -> None:
        """Takes everything out of the engine, and ends what is in the making. Not while `draw` runs: it would put
        more into the engine."""
        for index, canvas in enumerate(self._canvases):
            self._engine.abort(Ticket(*self._key, index))
            canvas.drawn.cancel()
        await cancelled(*self._parts)

    async def _blob(self, name: str) -> bytes | None:
        return await insist("reading an upload", partial(self._blobs.get, name))

    def _part(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._parts.add(task)
        task.add_done_callback(self._parts.discard)
        return task

    async def _picture(self, index: int) -> dict[str, Any]:
        canvas, payload = self._canvases[index], self._payload
        await canvas.drawn
        request, name = pictures.request_of(payload, index, {}), payload["class_name"]
        made = await self._in_thread(
            pictures.finished, canvas.tokens, self.upload, self._codec, self._card, request, name
        )
        job_id, attempt = self._key
        blob = f"{job_id}/result/{attempt}/{index}"
        if not await insist("storing a picture", partial(self._blobs.put, blob, made.png, job=self._key)):
            log.warning("a picture of job %s is not stored: the job is another worker's", job_id)
        return {
            "index": index,
            "seed": payload["seeds"][index],
            "width": made.width,
            "height": made.height,
            "blob": blob,
            "tokens": canvas.tokens.tolist(),
        }

    async def _preview(self, image: int, canvas: Canvas, tokens: np.ndarray, step: int) -> None:
        try:
            shown = await self._in_thread(pictures.preview, tokens, self._codec)
        except Exception:
            log.exception("a preview of job %s failed", self._key[0])
        else:
            if not canvas.drawn.done():  # else the picture itself is on its way
                data = {"image_index": image, "step": step, "format": "jpeg", "b64_json": shown}
                self._publisher.preview(self._key, data)
        finally:
            canvas.previewing = False

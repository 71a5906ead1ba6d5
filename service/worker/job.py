"""One attempt at one job: pictures → requests → tokens → pictures."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from redis.exceptions import RedisError

from engine.request import RequestError
from service.queue import Blobs, BlobStoreFull, Claim, Queue
from service.queue.contract import State
from service.worker import pictures
from service.worker.engine_thread import EngineFailed, EngineThread, Ticket
from service.worker.pictures import UNKNOWN, BadUpload, Upload
from service.worker.publisher import Attempt, Publisher

if TYPE_CHECKING:
    from engine.card import ModelCard
    from engine.codec import Codec
    from engine.engine import Update
    from service.metrics import Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")
Interruption = Literal["canceled", "lost", "released"]
InThread = Callable[..., Awaitable[Any]]
RETRY_SECONDS = 0.5


class Canvas:
    """The tokens of one picture as they come."""

    def __init__(self, grid: tuple[int, int]) -> None:
        self.tokens = np.full(grid, UNKNOWN, dtype=np.int32)
        self.drawn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.previewing = False


class JobRun:
    """Lives from the claim to the terminal event. `run` returns when nothing is left to do for this attempt."""

    def __init__(
        self,
        claim: Claim,
        *,
        card: ModelCard,
        codec: Codec,
        engine: EngineThread,
        queue: Queue,
        blobs: Blobs,
        publisher: Publisher,
        metrics: Metrics,
        in_thread: InThread,
    ) -> None:
        self.claim = claim
        self.key: Attempt = (claim.id, claim.attempt)
        self.payload = claim.payload
        self.unadmitted = int(self.payload["n"])  # pictures that the engine has not counted yet
        self._card = card
        self._codec = codec
        self._engine = engine
        self._queue = queue
        self._blobs = blobs
        self._publisher = publisher
        self._metrics = metrics
        self._in_thread = in_thread
        self._upload: Upload | None = None
        self._canvases = [Canvas(card.grid) for _ in range(self.payload["n"])]
        self._interrupted: asyncio.Future[Interruption] = asyncio.get_running_loop().create_future()
        self._parts: set[asyncio.Task[Any]] = set()  # pictures and previews in the making
        self._claimed_at = time.monotonic()
        self._first_tokens: float | None = None
        self._last_tokens: float | None = None
        self._tokens_drawn = 0

    @property
    def unadmitted_cost(self) -> int:
        """KV tokens that this job will reserve beside what the engine counts."""
        return -(-self.claim.cost * self.unadmitted // len(self._canvases))

    def interrupt(self, why: Interruption) -> None:
        if not self._interrupted.done():
            self._interrupted.set_result(why)

    def admitted(self) -> None:
        self.unadmitted -= 1

    def refused(self, ticket: Ticket, error: Exception) -> None:
        drawn = self._canvases[ticket.image].drawn
        if not drawn.done():
            drawn.set_exception(error)

    def update(self, ticket: Ticket, update: Update) -> None:
        """What a step drew: onto the canvas, and on its way to whoever watches."""
        canvas = self._canvases[ticket.image]
        canvas.tokens.ravel()[list(update.positions)] = update.tokens
        self._tokens_drawn += len(update.tokens)
        self._metrics.tokens.labels(self._card.name).inc(len(update.tokens))
        self._last_tokens = time.monotonic()
        if self._first_tokens is None:
            self._first_tokens = self._last_tokens
            self._metrics.time_to_first_preview_seconds.labels(self._card.name).observe(
                self.claim.queued_seconds + self._first_tokens - self._claimed_at
            )
        data = {
            "image_index": ticket.image,
            "step": update.step,
            "steps": update.steps,
            "positions": list(update.positions),
            "tokens": list(update.tokens),
            "n_done": update.n_done,
            "n_total": update.n_total,
        }
        self._publisher.tokens(self.key, data)
        every = self.payload["previews"]
        if update.finished:
            canvas.drawn.set_result(None)
        elif every and update.step % every == 0 and not canvas.previewing:
            canvas.previewing = True  # one at a time: previews never queue up behind a slow codec
            self._part(self._preview(ticket.image, canvas, update.step))

    async def run(self) -> None:
        claim = self.claim
        self._metrics.request_queue_seconds.labels(self._card.name).observe(claim.queued_seconds)
        self._publisher.hold(self.key)
        if claim.cancel_requested:
            self.interrupt("canceled")
        drawing = asyncio.ensure_future(self._draw())
        try:
            await first(drawing, self._interrupted)
            if self._interrupted.done():
                await self._leave(drawing, self._interrupted.result())
            elif (error := drawing.exception()) is None:
                await self._succeed(drawing.result())
            else:
                await self._fail(error)
        finally:
            await self._stop(drawing)
            self._publisher.drop(self.key)

    async def _draw(self) -> list[dict[str, Any]]:
        """The finished images, as the result lists them."""
        payload, claim = self.payload, self.claim
        if payload["task"] == "inpaint":
            image, mask = [await self._blobs.get(payload[name]) for name in ("image", "mask")]
            self._upload = await self._in_thread(pictures.read_upload, image, mask, self._card, self._codec)
        known = pictures.known_tokens(self._upload)
        unknown = self._card.positions - len(known)
        for canvas in self._canvases:
            canvas.tokens.ravel()[list(known)] = list(known.values())
        started = {
            "attempt": claim.attempt,
            "images": len(self._canvases),
            "grid": list(self._card.grid),
            "steps": min(payload["steps"], unknown),
            "known": len(known),
        }
        self._publisher.started(self.key, started)
        for index in range(len(self._canvases)):
            self._engine.add(Ticket(*self.key, index), pictures.request_of(payload, index, known))
        return await asyncio.gather(*(self._part(self._picture(i)) for i in range(len(self._canvases))))

    def _part(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._parts.add(task)
        task.add_done_callback(self._parts.discard)
        return task

    async def _picture(self, index: int) -> dict[str, Any]:
        canvas = self._canvases[index]
        await canvas.drawn
        picture = await self._in_thread(
            pictures.finished, canvas.tokens, self._upload, self._codec, self.payload, index
        )
        blob = f"{self.claim.id}/result/{index}"
        await self._blobs.put(blob, picture.png)
        return {
            "index": index,
            "seed": self.payload["seeds"][index],
            "width": picture.width,
            "height": picture.height,
            "blob": blob,
            "tokens": canvas.tokens.tolist(),
        }

    async def _preview(self, index: int, canvas: Canvas, step: int) -> None:
        try:
            shown = await self._in_thread(pictures.preview, canvas.tokens.copy(), self._codec)
        except Exception:
            log.exception("a preview of job %s failed", self.claim.id)
        else:
            if not canvas.drawn.done():  # the picture itself is on its way
                data = {"image_index": index, "step": step, "format": "jpeg", "b64_json": shown}
                self._publisher.preview(self.key, data)
        finally:
            canvas.previewing = False

    async def _succeed(self, images: list[dict[str, Any]]) -> None:
        now, queued = time.monotonic(), self.claim.queued_seconds
        first, last = self._first_tokens or now, self._last_tokens or now
        timings = {
            "queue_seconds": queued,
            "first_tokens_seconds": queued + first - self._claimed_at,  # from acceptance
            "draw_seconds": last - self._claimed_at,
            "decode_seconds": now - last,
        }
        known = self._card.positions * len(images) - self._tokens_drawn
        usage = {"steps": self.payload["steps"], "tokens_drawn": self._tokens_drawn, "tokens_known": known}
        result: dict[str, Any] = {"images": images, "grid": list(self._card.grid), "timings": timings, "usage": usage}
        if self._upload is not None:
            result["token_mask"] = self._upload.redrawn.astype(int).tolist()
        shown = [{name: image[name] for name in ("index", "seed", "width", "height")} for image in images]
        data = {"images": shown, "timings": timings, "usage": usage}
        if await self._finish("succeeded", "completed", data, result=result):
            self._metrics.images.labels(self._card.name).inc(len(images))
            self._metrics.request_seconds.labels(self._card.name, self.payload["task"]).observe(
                queued + now - self._claimed_at
            )

    async def _fail(self, error: BaseException) -> None:
        code, message = error_of(error)
        log.warning("job %s failed: %s: %s", self.claim.id, code, message)
        told = {"code": code, "message": message}
        await self._finish("failed", "failed", {"error": told}, error=told)

    async def _leave(self, drawing: asyncio.Future[Any], why: Interruption) -> None:
        await self._stop(drawing)
        if why == "canceled":
            await self._finish("canceled", "canceled", {})
        elif why == "released":
            await self._queue.release(self.claim.id, self.claim.attempt)
        else:
            log.warning("job %s is left to another worker", self.claim.id)

    async def _finish(self, state: State, event: str, data: dict[str, Any], **more: Any) -> bool:
        """The terminal event, after all that was said before it; retried until it is there or not ours to say."""
        claim = self.claim
        arrived = asyncio.ensure_future(self._publisher.last_sequence(self.key))
        await first(arrived, self._interrupted)
        if not arrived.done() and self._interrupted.result() != "canceled":
            arrived.cancel()
            await self._leave(arrived, self._interrupted.result())
            return False
        sequence = await arrived
        while True:
            try:
                answer = await self._queue.finish(
                    claim.id, claim.attempt, sequence, state=state, event=event, data=data, **more
                )
                break
            except (RedisError, OSError) as error:
                log.warning("finishing job %s: %s; trying again", claim.id, error)
                await asyncio.sleep(RETRY_SECONDS)
        if answer == "lost":
            log.warning("job %s had been given to another worker when it was finished", claim.id)
            return False
        self._metrics.requests.labels(self.payload["task"], state).inc()
        for upload in ("image", "mask"):
            if self.payload.get(upload):
                await self._blobs.delete(self.payload[upload])
        return True

    async def _stop(self, drawing: asyncio.Future[Any]) -> None:
        # First the engine: a cancelled picture cancels the future it awaits, and would look drawn.
        for index, canvas in enumerate(self._canvases):
            if not canvas.drawn.done():
                self._engine.abort(Ticket(*self.key, index))
                canvas.drawn.cancel()
        tasks = {drawing, *self._parts}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def error_of(error: BaseException) -> tuple[str, str]:
    """Code and message for the client."""
    match error:
        case RequestError():
            return "invalid_request", str(error)
        case BadUpload():
            return error.code, str(error)
        case BlobStoreFull():
            return "storage_full", str(error)
        case EngineFailed():
            return "engine_failed", str(error)
    log.error("unforeseen", exc_info=error)
    return "internal_error", f"{type(error).__name__}: {error}"

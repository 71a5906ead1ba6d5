"""One attempt at one job, from the claim to its one terminal event."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Literal

from engine.request import EMPTY, RequestError
from service.jobs import BlobStoreFull, Claim, Queue, cancelled
from service.jobs.messages import AttemptKey, State
from service.tasks.inputs import BadUpload
from service.tasks.uploads import needed_to_fork
from service.worker.engine_thread import FailureCode, ImageKey
from service.worker.picture import Canvases
from service.worker.publisher import Publisher
from service.worker.retry import retry_transient

if TYPE_CHECKING:
    from engine.card import ModelCard
    from engine.request import RequestOutput
    from service.metrics import Metrics

log = logging.getLogger(__name__)

Interruption = Literal["canceled", "lost", "released", "blamed"]


class EngineFailed(Exception):
    """A step raised in which this job took part. alone: no other job can have been the reason."""

    def __init__(self, code: FailureCode, *, alone: bool) -> None:
        super().__init__(code)
        self.code = code
        self.alone = alone


class JobRun:
    """`run` returns when nothing is left to do for this attempt."""

    def __init__(
        self,
        claim: Claim,
        canvases: Canvases,
        *,
        card: ModelCard,
        queue: Queue,
        publisher: Publisher,
        metrics: Metrics,
    ) -> None:
        self.claim = claim
        self.key: AttemptKey = (claim.id, claim.attempt)
        self._canvases = canvases
        self._card = card
        self._queue = queue
        self._publisher = publisher
        self._metrics = metrics
        self._task = str(claim.payload["task"])
        self._interrupted: asyncio.Future[Interruption] = asyncio.get_running_loop().create_future()
        self._claimed_at = time.monotonic()

    @property
    def unadmitted_cost(self) -> int:
        """KV tokens that this job will reserve beside what the engine counts."""
        return -(-self.claim.cost * self._canvases.unadmitted // len(self._canvases))

    def interrupt(self, why: Interruption) -> None:
        if not self._interrupted.done():
            self._interrupted.set_result(why)

    def admitted(self) -> None:
        self._canvases.admitted()

    def refused(self, ticket: ImageKey, error: Exception) -> None:
        """The engine does not draw a picture of it, or no longer."""
        self._canvases.refused(ticket.image, error)

    def update(self, ticket: ImageKey, update: RequestOutput) -> None:
        if self._interrupted.done():
            return
        if self._canvases.first_tokens_at is None:
            self._metrics.time_to_first_preview_seconds.labels(self._card.name).observe(
                self._since_acceptance(time.monotonic())
            )
        self._metrics.tokens.labels(self._card.name).inc(len(update.tokens))
        self._canvases.update(ticket.image, update)

    async def run(self) -> None:
        claim = self.claim
        self._metrics.request_queue_seconds.labels(self._card.name).observe(claim.queued_seconds)
        self._publisher.register(self.key)
        if claim.cancel_requested:
            self.interrupt("canceled")
        drawing = self._drawing = asyncio.ensure_future(self._canvases.draw())
        try:
            await wait_first(drawing, self._interrupted)
            if self._interrupted.done():
                await self._leave(self._interrupted.result())
            elif (error := drawing.exception()) is None:
                await self._succeed(drawing.result())
            else:
                await self._fail(error)
        finally:
            await self._stop_drawing()
            self._publisher.unregister(self.key)

    async def _succeed(self, images: list[dict[str, Any]]) -> None:
        canvases, now = self._canvases, time.monotonic()
        first_tokens, last_tokens = canvases.first_tokens_at or now, canvases.last_tokens_at or now
        timings = {
            "queue_seconds": self.claim.queued_seconds,
            "first_tokens_seconds": self._since_acceptance(first_tokens),
            "draw_seconds": last_tokens - self._claimed_at,
            "decode_seconds": now - last_tokens,
        }
        layout = canvases.layout
        assert layout is not None
        rows, cols = layout.grid
        usage = {
            "steps": canvases.steps,
            "tokens_drawn": canvases.tokens_drawn,
            "tokens_known": rows * cols * len(images) - canvases.tokens_drawn,
        }
        result: dict[str, Any] = {
            "images": images,
            "grid": list(layout.grid),
            "tokenizer": self._card.tokenizer,
            "weights": self._card.weights,
            "timings": timings,
            "usage": usage,
        }
        if canvases.source is not None:
            result["token_mask"] = (layout.tokens == EMPTY).astype(int).tolist()
        shown = [{name: image[name] for name in ("index", "seed", "width", "height")} for image in images]
        data = {"images": shown, "timings": timings, "usage": usage}
        keep = [*(image["blob"] for image in images), *needed_to_fork(self.claim.payload).values()]
        if await self._finish("succeeded", "completed", data, result=result, keep=keep):
            self._metrics.images.labels(self._card.name).inc(len(images))
            self._metrics.request_seconds.labels(self._card.name, self._task).observe(self._since_acceptance(now))

    async def _fail(self, error: BaseException) -> None:
        code, message = error_of(error, self.claim.id)
        if isinstance(error, EngineFailed) and not error.alone:
            await self._stop_drawing()
            await self._blame(code, message)
            return
        log.warning("job %s failed: %s: %s", self.claim.id, code, message, exc_info=cause_of(error))
        told = {"code": code, "message": message}
        await self._finish("failed", "failed", {"error": told}, error=told)

    async def _leave(self, why: Interruption) -> None:
        await self._stop_drawing()
        if why == "canceled":
            await self._finish("canceled", "canceled", {})
        elif why == "released":
            await retry_transient("releasing a job", lambda: self._queue.release(*self.key))
        elif why == "blamed":
            await self._blame(*error_of(EngineFailed("engine_failed", alone=False), self.claim.id))
        else:
            log.warning("job %s is left to another worker", self.claim.id)

    async def _blame(self, code: str, message: str) -> None:
        """Back to the queue, as one of those that may be why the engine failed."""
        answer = await retry_transient("giving a job back", lambda: self._queue.suspect(*self.key, code, message))
        log.warning("job %s was under way when the engine failed: %s: %s", self.claim.id, code, answer)
        if answer in ("failed", "canceled"):
            self._metrics.requests.labels(self._task, answer).inc()

    async def _stop_drawing(self) -> None:
        await cancelled(self._drawing)
        await self._canvases.stop()

    async def _finish(self, state: State, event: str, data: dict[str, Any], **more: Any) -> bool:
        """The terminal event, after all that was said before it; retried until it is there or not ours to say."""
        arrived = asyncio.ensure_future(self._publisher.last_sequence(self.key))
        await wait_first(arrived, self._interrupted)
        if not arrived.done() and (why := self._interrupted.result()) != "canceled":
            arrived.cancel()
            await self._leave(why)
            return False
        sequence = await arrived
        answer = await retry_transient(
            f"finishing job {self.claim.id}",
            lambda: self._queue.finish(*self.key, sequence, state=state, event=event, data=data, **more),
        )
        if answer == "lost":
            log.warning("job %s had been given to another worker when it was finished", self.claim.id)
        if answer != "ok":  # `already`: it has ended, perhaps otherwise, and whoever ended it counts it
            return False
        self._metrics.requests.labels(self._task, state).inc()
        return True

    def _since_acceptance(self, moment: float) -> float:
        return self.claim.queued_seconds + moment - self._claimed_at


async def wait_first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def error_of(error: BaseException, job_id: str) -> tuple[str, str]:
    """Code and message for the client. What nobody foresaw may say anything, and is for the log only."""
    match error:
        case RequestError():
            return "invalid_request", str(error)
        case BadUpload():
            return error.code, str(error)
        case BlobStoreFull():
            return "storage_full", str(error)
        case EngineFailed(code="out_of_memory"):
            return error.code, f"there was not memory enough to draw job {job_id}"
        case EngineFailed():
            return error.code, f"the engine failed while it drew job {job_id}; the worker's log says how"
    return "internal_error", f"something went wrong with job {job_id}; the worker's log says what"


def cause_of(error: BaseException) -> BaseException | None:
    """What the log should show of it."""
    return error if error_of(error, "")[0] == "internal_error" else error.__cause__

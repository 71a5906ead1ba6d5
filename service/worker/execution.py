"""One attempt at one job, from the claim to its one terminal event."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from engine.request import EMPTY
from service import logs
from service.jobs import Claim, cancelled
from service.jobs.messages import AttemptKey, State
from service.jobs.result import JobResult, JobWarning, StoredImage, other_model
from service.jobs.spec import JobSpec
from service.tasks import drawing
from service.tasks.pictures.inputs import BadUpload, fork_blobs
from service.worker import events
from service.worker.engine_thread import EngineFailed, ImageKey
from service.worker.picture import ModelContext, PictureExecution
from service.worker.picture_files import PictureFiles
from service.worker.retry import retry_transient
from service.worker.stages import Stages
from service.worker.threads.large_pictures import LARGE

if TYPE_CHECKING:
    from engine.request import RequestOutput

log = logging.getLogger(__name__)

Interruption = Literal["canceled", "lost", "released", "blamed"]


class JobExecution:
    """`run` returns when nothing is left to do for this attempt. pictures: none until the job's inputs are loaded.

    Pictures that an earlier attempt stored with the same weights are kept as they are; the others are drawn.
    """

    def __init__(self, claim: Claim, spec: JobSpec, context: ModelContext) -> None:
        self.claim = claim
        self.spec = spec
        self.key: AttemptKey = (claim.id, claim.attempt)
        self.pictures: list[PictureExecution] = []
        self._context = context
        self._files = PictureFiles(
            spec,
            claim.client,
            card=context.card,
            codec=context.codec,
            blobs=context.blobs,
            codec_thread=context.codec_thread,
            large_pictures=context.large_pictures,
        )
        stored, card = map(StoredImage.model_validate, claim.pictures), context.card
        # A picture that another model drew under the same name is drawn again: one job's pictures have one model.
        self._kept = {image.index: image for image in stored if image.drawn_by(card.tokenizer, card.weights)}
        self._interrupted: asyncio.Future[Interruption] = asyncio.get_running_loop().create_future()
        self._stages = Stages(claim.queued_seconds)
        self._prompts = drawing.NO_PROMPTS
        self._warnings: tuple[JobWarning, ...] = ()

    @property
    def unadmitted_cost(self) -> int:
        """KV tokens that this job will reserve and that the engine's statistics don't count yet."""
        loading = self.spec.n - len(self._kept)
        unadmitted = sum(picture.waiting for picture in self.pictures) if self.pictures else loading
        return -(-self.claim.cost * unadmitted // self.spec.n)

    @property
    def unstored_pixels(self) -> int:
        """Pixels of its pictures that wait for the codec, or will. Small pictures count when they are drawn: until
        then the KV cache bounds their number."""
        each = self.claim.pixels // self.spec.n
        if each <= LARGE:
            return each * sum(picture.drawn.done() and not picture.stored for picture in self.pictures)
        return each * (sum(not picture.stored for picture in self.pictures) if self.pictures else self.spec.n)

    def interrupt(self, why: Interruption) -> None:
        if not self._interrupted.done():
            self._interrupted.set_result(why)

    def update(self, image: int, output: RequestOutput) -> None:
        """What a step drew of one of the pictures."""
        picture = self.pictures[image]
        if self._interrupted.done() or picture.drawn.done():  # the engine took a last step of it meanwhile
            return
        stages, metrics, model = self._stages, self._context.metrics, self._context.card.name
        stages.last_tokens = time.monotonic()
        if stages.first_tokens is None:
            stages.first_tokens = stages.last_tokens
            metrics.time_to_first_token_seconds.labels(model).observe(stages.since_acceptance(stages.first_tokens))
        metrics.generation_tokens.labels(model).inc(len(output.tokens))
        picture.update(output)

    async def run(self) -> None:
        claim = self.claim
        names = {"model": self._context.card.name, "task": self.spec.task, "client": claim.client}
        with logs.about(request_id=claim.request_id, job_id=claim.id, attempt=claim.attempt, **names):
            await self._run()

    async def _run(self) -> None:
        claim, context = self.claim, self._context
        context.metrics.request_queue_time_seconds.labels(context.card.name).observe(claim.queued_seconds)
        context.publisher.register(self.key)
        if claim.cancel_requested:
            self.interrupt("canceled")
        self._drawing = asyncio.ensure_future(self._draw())
        try:
            await wait_first(self._drawing, self._interrupted)
            if self._interrupted.done():
                await self._leave(self._interrupted.result())
            elif (error := self._drawing.exception()) is None:
                await self._succeed(self._drawing.result())
            else:
                await self._fail(error)
        finally:
            await self._stop_drawing()
            context.publisher.unregister(self.key)

    async def _draw(self) -> list[StoredImage]:
        """All pictures of the job, in order. Raises the error of the first picture that fails."""
        spec, context = self.spec, self._context
        if spec.fork is not None:
            await self._check_parent(spec.fork.job)
        canvas = await self._files.canvas()
        self._stages.loaded = time.monotonic()
        if spec.prompt is not None:
            await self._encode_prompts()
        requests = drawing.requests(spec, context.card, self._prompts)
        templates = drawing.fork_requests(spec, canvas, context.card, context.fork, self._prompts)
        generations = [drawing.generation(spec, canvas, template) for template in templates]
        steps = self._steps = context.card.steps or generations[0].steps
        self.pictures = [
            PictureExecution(
                ImageKey(*self.key, index),
                context,
                generation,
                partial(self._files.finished, request),
                self._files.preview,
                seed=request.seed,
                steps=steps,
                previews=spec.output.previews,
            )
            for index, (generation, request) in enumerate(zip(generations, requests, strict=True))
        ]
        event = events.started(
            attempt=self.claim.attempt,
            images=spec.n,
            grid=spec.grid,
            steps=steps,
            known=int(spec.fixed_cells.sum()),
            kept=self._kept,
            card=context.card,
        )
        context.publisher.started(self.key, event)
        cells = [int(cell) for cell in np.flatnonzero(canvas == EMPTY)]
        under_way = []
        for index, (picture, template) in enumerate(zip(self.pictures, templates, strict=True)):
            if index in self._kept:
                picture.keep(self._kept[index], cells, replayed=len(template.replayed_tokens))
                continue
            if spec.fork is not None:
                picture.publish_replayed(template.replayed_tokens, spec.fork.step)
            under_way.append(picture.start())
        return sorted([*self._kept.values(), *await asyncio.gather(*under_way)], key=attrgetter("index"))

    async def _encode_prompts(self) -> None:
        """Raises RequestError with the field at fault."""
        context, client = self._context, self.claim.client
        encoded = context.codec_thread.call("source", client, drawing.encode_prompts, self.spec, context.text_encoder)
        self._prompts, self._warnings = await encoded
        self._stages.encoded = time.monotonic()

    async def _check_parent(self, job_id: str) -> None:
        """A fork goes on from tokens of its parent. Raises BadUpload if another model of this name drew them."""
        parent = await retry_transient("reading a fork's parent", partial(self._context.queue.job, job_id))
        result, card = (parent and parent.result) or {}, self._context.card
        if what := other_model(result, card):
            message = f"{card.name} is another by now: not the {what} that drew the fork's parent"
            raise BadUpload(f"other_{what}", message)

    async def _succeed(self, images: list[StoredImage]) -> None:
        spec, card, metrics, now = self.spec, self._context.card, self._context.metrics, time.monotonic()
        timings = self._stages.of_success(max(picture.made_at for picture in self.pictures), now)
        tokens_drawn = sum(picture.tokens_drawn for picture in self.pictures)
        tokens_redrawn = sum(picture.tokens_redrawn for picture in self.pictures)
        usage = {
            "steps": self._steps,
            "tokens_drawn": tokens_drawn,
            "tokens_known": spec.fixed_cells.size * len(images) - (tokens_drawn - tokens_redrawn),
        }
        if spec.prompt is not None:
            usage["tokens_text"] = self._prompts.rows
        result = JobResult(
            images=tuple(images),
            tokenizer=card.tokenizer,
            weights=card.weights,
            timings=timings,
            usage=usage,
            warnings=self._warnings,
        )
        event = events.completed(images, timings, usage, self._warnings)
        keep = [*(image.blob for image in images), *fork_blobs(spec).values()]
        if await self._finish("succeeded", "completed", event, result=result.model_dump(), keep=keep):
            metrics.images.labels(card.name).inc(len(images))
            latency = self._stages.since_acceptance(now)
            metrics.e2e_request_latency_seconds.labels(card.name, self.spec.task).observe(latency)

    async def _fail(self, error: BaseException) -> None:
        answer = events.error_of(error, self.claim.id)
        if isinstance(error, EngineFailed) and not error.alone:
            await self._stop_drawing()
            await self._blame(answer)
            return
        cause = error if answer["code"] == "internal_error" else error.__cause__
        log.warning("job %s failed: %s: %s", self.claim.id, answer["code"], answer["message"], exc_info=cause)
        await self._finish("failed", "failed", events.failed(answer), error=answer)

    async def _leave(self, why: Interruption) -> None:
        await self._stop_drawing()
        queue = self._context.queue
        if why == "canceled":
            await self._finish("canceled", "canceled", events.canceled())
        elif why == "released":
            await retry_transient("releasing a job", lambda: queue.release(*self.key))
            self._log_attempt("released")
        elif why == "blamed":
            await self._blame(events.error_of(EngineFailed("engine_failed", alone=False), self.claim.id))
        else:
            log.warning("job %s is left to another worker", self.claim.id)
            self._log_attempt("lost")

    async def _blame(self, error: Mapping[str, str]) -> None:
        """Returns the job to the queue as a poison candidate: the engine may have failed because of it."""
        queue, code, message = self._context.queue, error["code"], error["message"]
        answer = await retry_transient("giving a job back", lambda: queue.quarantine(*self.key, code, message))
        log.warning("job %s was under way when the engine failed: %s: %s", self.claim.id, code, answer)
        if answer in ("failed", "canceled"):
            self._context.metrics.count_end(self._context.card.name, self.spec.task, answer, code)
            self._log_end(answer, code if answer == "failed" else "")
        elif answer == "ok":
            self._log_attempt("blamed")

    async def _stop_drawing(self) -> None:
        await cancelled(self._drawing)  # first, as it would give the engine more
        for picture in self.pictures:
            picture.abort()
        await cancelled(*chain.from_iterable(picture.tasks for picture in self.pictures))

    async def _finish(self, state: State, name: str, event: events.EventData, **more: Any) -> bool:
        """Publishes the terminal event, after all events before it. Repeated until the queue has it, or this attempt
        loses the job. False: the job did not end by this call."""
        queue = self._context.queue
        arrived = asyncio.ensure_future(self._context.publisher.last_sequence(self.key))
        await wait_first(arrived, self._interrupted)
        if not arrived.done() and (why := self._interrupted.result()) != "canceled":
            arrived.cancel()
            await self._leave(why)
            return False
        sequence = await arrived
        answer = await retry_transient(
            f"finishing job {self.claim.id}",
            lambda: queue.finish(*self.key, sequence, state=state, event=name, data=event, **more),
        )
        if answer == "lost":
            log.warning("job %s had been given to another worker when it was finished", self.claim.id)
            self._log_attempt("lost")
        if answer != "ok":  # `already`: another call ended it, perhaps otherwise, and counts it
            return False
        code = (more.get("error") or {}).get("code", "")
        self._context.metrics.count_end(self._context.card.name, self.spec.task, state, code)
        self._log_end(state, code, (more.get("result") or {}).get("timings"))
        return True

    def _log_end(self, state: str, code: str, timings: dict[str, float] | None = None) -> None:
        seconds = self._stages.since_acceptance(time.monotonic())
        logs.job_line(self.claim.id, state, code=code, seconds=seconds, timings=timings or self._stages.so_far())

    def _log_attempt(self, outcome: str) -> None:
        seconds = self._stages.since_acceptance(time.monotonic())
        told = f"job {self.claim.id}: attempt {self.claim.attempt} is {outcome} after {seconds:.3f} s"
        logs.line("attempt", told, outcome=outcome, timings={"total_seconds": seconds, **self._stages.so_far()})


async def wait_first(*futures: asyncio.Future[Any]) -> None:
    """Waits until one of them is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)

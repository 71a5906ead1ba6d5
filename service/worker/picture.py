"""One picture of a job under way: its requests to the engine, its tokens and previews, the stored file."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from engine.editing.windows import WindowedGeneration
from engine.request import StepOutput
from service.jobs import BlobStore, BlobStoreFull, BlobTooLarge, Queue
from service.jobs.packing import pack_tokens
from service.jobs.result import StoredImage, blob_name
from service.tasks.drawing import FinishedPicture
from service.worker import events
from service.worker.engine_thread import EngineThread, ImageKey
from service.worker.publisher import Publisher
from service.worker.retry import RETRY_SECONDS, retry_transient
from service.worker.threads.codec_thread import CodecThread
from service.worker.threads.large_pictures import LargePictures

if TYPE_CHECKING:
    from engine.card import ModelCard
    from engine.codec.codec import Codec
    from engine.request import Request, RequestOutput
    from engine.text.encoder import TextEncoder
    from service.metrics import Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")

LEAST_PATIENCE = 60.0
"""Seconds for which a picture waits at least until the blob store has room for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContext:
    """What all jobs of one model share. fork: as Engine.fork."""

    card: ModelCard
    codec: Codec
    text_encoder: TextEncoder | None
    engine: EngineThread
    fork: Callable[[Request, Mapping[int, int], int, int], Request]
    queue: Queue
    blobs: BlobStore
    publisher: Publisher
    metrics: Metrics
    codec_thread: CodecThread
    large_pictures: LargePictures


class PictureExecution:
    """For the event loop only.

    generation: what remains to be drawn, a request for each window. finished: full token map → file. preview: tokens →
    base64. previews: a preview every so many steps; 0: none. drawn: done when the last token has come, or with the
    reason why none comes. waiting: the engine has not admitted the picture's request, so its statistics don't count it.
    stored: its file is in the blob store. made_at: when its file was made, by time.monotonic().
    """

    def __init__(
        self,
        key: ImageKey,
        context: ModelContext,
        generation: WindowedGeneration,
        finished: Callable[[np.ndarray], AbstractAsyncContextManager[FinishedPicture]],
        preview: Callable[[np.ndarray], Awaitable[str]],
        *,
        seed: int,
        steps: int,
        previews: int,
    ) -> None:
        self.drawn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting = True
        self.stored = False
        self.made_at = float("-inf")
        self.tokens_drawn = 0
        self.tokens_redrawn = generation.redrawn
        self.tasks: set[asyncio.Task[Any]] = set()  # the picture's file and its previews, while they are made
        self._key = key
        self._context = context
        self._generation = generation
        self._finished = finished
        self._preview_of = preview
        self._seed = seed
        self._steps = steps
        self._previews = previews
        self._preview_under_way = False

    def start(self) -> asyncio.Task[StoredImage]:
        """Draws and stores the picture."""
        self._add_request()
        return self._spawn(self._store())

    def keep(self, stored: StoredImage, cells: Sequence[int], replayed: int) -> None:
        """Takes over a picture that an earlier attempt stored, and publishes its tokens: that attempt may have
        published only some of them. cells: all that were not given. replayed: how many of them a fork has from its
        parent."""
        self.waiting, self.stored = False, True
        self.drawn.set_result(None)
        self.tokens_drawn = self._generation.total - replayed
        self._publish(
            StepOutput(
                step=self._steps,
                steps=self._steps,
                positions=tuple(cells),
                tokens=tuple(stored.tokens().ravel()[list(cells)].tolist()),
                n_done=self._generation.total,
                n_total=self._generation.total,
            )
        )

    def publish_replayed(self, tokens: Mapping[int, int], step: int) -> None:
        """The tokens that a fork has from its parent, so that watchers see the whole picture."""
        self._publish(
            StepOutput(
                step=step,
                steps=self._steps,
                positions=tuple(tokens),
                tokens=tuple(tokens.values()),
                n_done=len(tokens),
                n_total=self._generation.total,
            )
        )

    def admitted(self) -> None:
        self.waiting = False

    def fail(self, error: Exception) -> None:
        """The engine does not draw it, or no longer."""
        if not self.drawn.done():
            self.drawn.set_exception(error)

    def update(self, output: RequestOutput) -> None:
        """What a step drew of it. Not after `drawn`."""
        step = self._generation.update(output)
        self.tokens_drawn += len(step.tokens)
        self._publish(step)
        if step.finished:
            self.drawn.set_result(None)
            return
        if output.finished:  # this window, and another one follows
            self.waiting = True
            self._add_request()
        if self._previews and step.step % self._previews == 0 and not self._preview_under_way:
            self._preview_under_way = True  # one at a time, so previews never queue up behind a slow codec
            self._spawn(self._preview(self._generation.tokens.copy(), step.step))

    def abort(self) -> None:
        """Takes it out of the engine. Its `tasks` are the caller's to cancel."""
        self._context.engine.abort(self._key)
        self.drawn.cancel()

    def _add_request(self) -> None:
        request = self._generation.next_request()
        assert request is not None
        self._context.engine.add(self._key, request)

    def _publish(self, step: StepOutput) -> None:
        event = events.TokensEvent.of(self._key.image, step, steps=self._steps)
        self._context.publisher.tokens(self._key.attempt_key, event)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _store(self) -> StoredImage:
        await self.drawn
        key, context, tokens = self._key, self._context, self._generation.tokens
        async with self._finished(tokens) as made:
            self.made_at = time.monotonic()
            image = StoredImage(
                index=key.image,
                seed=self._seed,
                width=made.width,
                height=made.height,
                blob=blob_name(key.job_id, key.attempt, key.image, context.card.tokenizer, context.card.weights),
                grid=(tokens.shape[0], tokens.shape[1]),
                packed_tokens=pack_tokens(tokens),
            )
            store = partial(context.blobs.put, image.blob, made.png, job=key.attempt_key, picture=image.model_dump())
            if not await self._when_there_is_room(store):
                log.warning("a picture of job %s is not stored: another worker has the job", key.job_id)
        self.stored = True
        return image

    async def _when_there_is_room(self, store: Callable[[], Awaitable[bool]]) -> bool:
        """What `store` returns. A full store gets room when the pictures of finished jobs expire, so it is asked for as
        long as they are kept. Raises BlobStoreFull after that, BlobTooLarge at once."""
        until = time.monotonic() + max(self._context.queue.config.result_ttl_seconds, LEAST_PATIENCE)
        pause = RETRY_SECONDS
        while True:
            try:
                return await retry_transient("storing a picture", store)
            except BlobStoreFull as full:
                if isinstance(full, BlobTooLarge) or time.monotonic() > until:
                    raise
                log.warning("a picture of job %s waits for room: %s", self._key.job_id, full)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)  # each try sends the whole picture

    async def _preview(self, tokens: np.ndarray, step: int) -> None:
        key, context = self._key, self._context
        try:
            jpeg = await self._preview_of(tokens)
        except Exception:
            log.exception("a preview of job %s failed", key.job_id)
        else:
            if not self.drawn.done():  # else the picture itself follows
                context.publisher.preview(key.attempt_key, events.preview(key.image, step, jpeg))
        finally:
            self._preview_under_way = False

"""A worker process: what its models share, how it starts, and how it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from service.jobs import BlobStore, Queue, WorkerCards, cancelled
from service.jobs.messages import AttemptKey, PublishStatus
from service.jobs.spec import SPEC_VERSION
from service.worker.claiming import Quarantine
from service.worker.execution import Interruption, wait_first
from service.worker.model_worker import ModelWorker
from service.worker.publisher import Publisher
from service.worker.threads.background import BackgroundThreads
from service.worker.threads.codec_thread import CodecThread
from service.worker.threads.cores import available, coding_threads, engine_cores
from service.worker.threads.large_pictures import LargePictures

if TYPE_CHECKING:
    from engine.core.engine import Engine
    from service.metrics import Metrics
    from service.settings import Settings

log = logging.getLogger(__name__)

LEAVING_SECONDS = 5.0
REPORT_SECONDS = 1.0


class WorkerFailed(Exception):
    """An engine stopped working: this process should be replaced."""


class Worker:
    """Draws with one or more engines, each with a model of another name. `run` returns once `stop` is set and the
    worker has drained.

    Raises WorkerFailed when an engine can't be used any more; other workers get its jobs.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        queue: Queue,
        blobs: BlobStore,
        cards: WorkerCards,
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._cards = cards
        self._grace = settings.grace
        self._gives_way = not settings.batch_invariant  # a logit's last bits may depend on the number of cores
        self._cores = available()
        self._codec_thread = CodecThread(coding_threads(self._cores))
        self._large_pictures = LargePictures(max(1, coding_threads(self._cores)), settings.picture_memory)
        self._palette_thread = BackgroundThreads("palettes")
        self._palettes: dict[str, bytes] = {}
        self._palette_made = asyncio.Event()
        self._publisher = Publisher(queue, self._answered, self._alive)
        quarantine = Quarantine()
        self._models = [
            ModelWorker(
                engine,
                worker=self.name,
                queue=queue,
                blobs=blobs,
                publisher=self._publisher,
                metrics=metrics,
                codec_thread=self._codec_thread,
                large_pictures=self._large_pictures,
                quarantine=quarantine,
                hung_seconds=settings.hung,
                most_pixels=settings.unstored_pixels,
                failed=self._fail,
            )
            for engine in engines
        ]

    async def run(self, stop: asyncio.Event) -> None:
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leaving = asyncio.Event()
        self._codec_thread.start()
        self._large_pictures.start()
        self._palette_thread.start()
        for model in self._models:
            model.start(self._engine_cores)
        stopping = asyncio.create_task(stop.wait(), name="stop")
        publishing = asyncio.create_task(self._publisher.run(), name="publisher")
        showing = asyncio.create_task(self._show_card(), name="card")
        painting = asyncio.create_task(self._make_palettes(), name="palettes")
        claiming = [
            asyncio.create_task(model.claim(self._leaving), name=f"claim {model.model}") for model in self._models
        ]
        log.info("worker %s serves %s", self.name, ", ".join(model.model for model in self._models))
        try:
            await self._watch(stopping, publishing, showing, *claiming)
            await self._take_no_more(claiming)
            await cancelled(showing)
            with contextlib.suppress(RedisError, OSError):
                await self._cards.remove(self.name)
            await self._watch(asyncio.create_task(self._drain(self._grace)), publishing)
        finally:
            await self._take_no_more(claiming)
            if self._failure.done():
                # Jobs that are known to have failed can still be reported.
                await self._drain(REPORT_SECONDS)
            await self._hand_back()
            await cancelled(stopping, *claiming, publishing, showing, painting)
            self._palette_thread.close()
            for model in self._models:
                model.close()
            await asyncio.gather(*(asyncio.to_thread(model.join, LEAVING_SECONDS) for model in self._models))
            self._codec_thread.close()
            self._large_pictures.close()
            # A thread that still runs torch would crash the interpreter's exit.
            await asyncio.to_thread(self._palette_thread.join, LEAVING_SECONDS)

    async def _watch(self, task: asyncio.Task[Any], *background: asyncio.Task[None]) -> None:
        """Waits until this task is done. Raises the error of an engine or of a background task."""
        await wait_first(task, self._failure, *background)
        for ended in (self._failure, *background, task):
            if ended.done():
                ended.result()

    def _fail(self, why: str) -> None:
        if not self._failure.done():
            self._failure.set_exception(WorkerFailed(why))

    def _engine_cores(self) -> int:
        codec_busy = self._codec_thread.busy or self._large_pictures.busy
        return engine_cores(self._cores, len(self._models), codec_busy=self._gives_way and codec_busy)

    def _answered(self, key: AttemptKey, answer: PublishStatus) -> None:
        for model in self._models:
            model.answered(key, answer)

    def _alive(self) -> bool:
        """Whether leases may be renewed: a worker with a hung engine is about to leave."""
        return all(model.alive() for model in self._models)

    async def _show_card(self) -> None:
        """Renews the worker card, from which the API knows the models that are served."""
        served = [model.served() for model in self._models]
        card = {"worker": self.name, "models": served, "spec": SPEC_VERSION, "since": time.time()}
        shown: set[str] = set()
        while True:
            self._palette_made.clear()
            try:
                await self._cards.put(self.name, card)
                for model, palette in tuple(self._palettes.items()):  # more may come meanwhile
                    if model not in shown or not await self._cards.keep_palette(model):
                        await self._cards.put_palette(model, palette)
                        shown.add(model)
            except (RedisError, OSError) as error:
                log.warning("showing the card: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._palette_made.wait(), self._cards.ttl_ms / 1000 / 4)

    async def _make_palettes(self) -> None:
        """In the background: palettes may take minutes, and no picture needs them."""
        for model in self._models:
            try:
                palette = await self._palette_thread.call(model.engine.codec.palette, self._leaving.is_set)
            except Exception:
                if self._leaving.is_set():
                    return
                log.exception("the palette of %s could not be made", model.model)
            else:
                self._palettes[model.model] = palette.tobytes()
                self._palette_made.set()

    async def _take_no_more(self, claiming: Sequence[asyncio.Task[None]]) -> None:
        """Stops claiming. Waits for claims under way, so that no claimed job has to wait for its lease to end."""
        self._leaving.set()
        await asyncio.wait(claiming, timeout=LEAVING_SECONDS)

    async def _drain(self, seconds: float) -> None:
        """Gives running jobs so many seconds to finish."""
        if not (tasks := self._tasks()):
            return
        log.info("draining: %d jobs have %.0f s to finish", len(tasks), seconds)
        deadline = time.monotonic() + seconds
        while tasks and time.monotonic() < deadline:
            left = min(5.0, deadline - time.monotonic())
            await asyncio.wait(tasks, timeout=max(0.0, left), return_when=asyncio.ALL_COMPLETED)
            if tasks := self._tasks():
                log.info("draining: %d jobs left", len(tasks))

    async def _hand_back(self) -> None:
        """Returns running jobs to their old place in the queue. A job of a failed engine may have been the reason, so
        it returns as a poison candidate."""
        if not (tasks := self._tasks()):
            return
        for model in self._models:
            why: Interruption = "blamed" if model.has_failed else "released"
            log.info("leaving: %d jobs for %s are %s", len(model.tasks), model.model, why)
            model.interrupt(why)
        _, left = await asyncio.wait(tasks, timeout=LEAVING_SECONDS)
        await cancelled(*left)  # Redis is away: their leases will expire

    def _tasks(self) -> set[asyncio.Task[None]]:
        return {task for model in self._models for task in model.tasks}

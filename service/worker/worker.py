"""A worker process: what its models share, how it starts, and how it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from service.jobs import BlobStore, Queue, WorkerCards, cancelled
from service.jobs.messages import AttemptKey, PublishStatus
from service.jobs.spec import SPEC_VERSION
from service.logs import Outage
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
RESTART_SECONDS, LONGEST_PAUSE = 1.0, 60.0
"""A failed engine is loaded again after the first of these, and after twice as long each time it fails again."""


LOAD_PAUSE = 1.0  # seconds between two reports of what the engines do


class WorkerFailed(Exception):
    """The engines stopped working: this process should be replaced."""


class Worker:
    """Draws with one or more engines, each with a model of another name. `run` returns once `stop` is set and the
    worker has drained. serving: called once the worker card is stored: from then on the API knows the models.

    When an engine can't be used any more, its jobs return to the queue and its model is withdrawn, while the other
    models are served on. reload: loads the engine of the model at this place again; None: the model stays away. Raises
    WorkerFailed when no model is left.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        queue: Queue,
        blobs: BlobStore,
        cards: WorkerCards,
        metrics: Metrics,
        settings: Settings,
        reload: Callable[[int], Awaitable[Engine]] | None = None,
        *,
        serving: Callable[[], None] = lambda: None,
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
        self._card_changed = asyncio.Event()
        self._publisher = Publisher(queue, self._answered, self._alive)
        self._reload = reload
        self._serving = serving
        self._new_model = partial(
            ModelWorker,
            worker=self.name,
            queue=queue,
            blobs=blobs,
            publisher=self._publisher,
            metrics=metrics,
            codec_thread=self._codec_thread,
            large_pictures=self._large_pictures,
            quarantine=Quarantine(),
            hung_seconds=settings.hung,
            most_pixels=settings.unstored_pixels,
            failed=self._fail,
        )
        self._models = [self._new_model(engine) for engine in engines]
        self._claiming: list[asyncio.Task[None]] = []
        self._replacing: set[asyncio.Task[None]] = set()
        self._pauses = [RESTART_SECONDS] * len(self._models)

    async def run(self, stop: asyncio.Event) -> None:
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leaving = asyncio.Event()
        self._codec_thread.start()
        self._large_pictures.start()
        self._palette_thread.start()
        stopping = asyncio.create_task(stop.wait(), name="stop")
        publishing = asyncio.create_task(self._publisher.run(), name="publisher")
        showing = asyncio.create_task(self._show_card(), name="card")
        reporting = asyncio.create_task(self._show_load(), name="load")
        painting = asyncio.create_task(self._make_palettes(), name="palettes")
        for model in self._models:
            self._begin(model)
        try:
            await self._watch(stopping, publishing, showing)
            await self._take_no_more()
            await cancelled(showing)
            with contextlib.suppress(RedisError, OSError):
                await self._cards.remove(self.name)
            await self._watch(asyncio.create_task(self._drain(self._grace)), publishing)
        finally:
            await self._take_no_more()
            await cancelled(*self._replacing)
            if self._failure.done():
                # Jobs that are known to have failed can still be reported.
                await self._drain(REPORT_SECONDS)
            await self._hand_back(self._models)
            await cancelled(stopping, *self._claiming, publishing, showing, reporting, painting)
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

    def _begin(self, model: ModelWorker) -> None:
        model.start(self._engine_cores)
        claiming = asyncio.create_task(model.claim(), name=f"claim {model.model}")
        claiming.add_done_callback(self._claimed)
        self._claiming.append(claiming)

    def _claimed(self, claiming: asyncio.Task[None]) -> None:
        """An unforeseen error ends the worker."""
        self._claiming.remove(claiming)
        if not claiming.cancelled() and (error := claiming.exception()) is not None and not self._failure.done():
            self._failure.set_exception(error)

    def _fail(self, model: ModelWorker, why: str) -> None:
        if not all(model.has_failed for model in self._models):
            log.error("%s; the other models are served on", why)
            replacing = asyncio.create_task(self._replace(model), name=f"replace {model.model}")
            self._replacing.add(replacing)
            replacing.add_done_callback(self._replacing.discard)
        elif not self._failure.done():
            self._failure.set_exception(WorkerFailed(why))

    async def _replace(self, failed: ModelWorker) -> None:
        """Withdraws a model whose engine has failed, and serves it again with a new engine."""
        began, place = time.monotonic(), self._models.index(failed)
        if began - failed.began > LONGEST_PAUSE:
            self._pauses[place] = RESTART_SECONDS
        self._card_changed.set()
        failed.take_no_more()
        if failed.tasks:
            await asyncio.wait(failed.tasks, timeout=REPORT_SECONDS)  # those known to have failed are reported
            await self._hand_back([failed])
        failed.close()
        ended = await asyncio.to_thread(failed.join, LEAVING_SECONDS)
        failed.forget()
        if not ended or self._reload is None:  # a thread that hangs keeps the engine's memory
            log.error("%s is served no more until this process is restarted", failed.model)
            return
        while not self._leaving.is_set():
            await asyncio.sleep(self._pauses[place])
            self._pauses[place] = min(2 * self._pauses[place], LONGEST_PAUSE)
            try:
                engine = await self._reload(place)
            except Exception:
                log.exception("%s can't be loaded again; trying again later", failed.model)
                continue
            log.info("%s is served again after %.0f s", failed.model, time.monotonic() - began)
            self._models[place] = self._new_model(engine)
            self._begin(self._models[place])
            self._card_changed.set()
            return

    def _engine_cores(self) -> int:
        codec_busy = self._codec_thread.busy or self._large_pictures.busy
        return engine_cores(self._cores, len(self._models), codec_busy=self._gives_way and codec_busy)

    def _answered(self, key: AttemptKey, answer: PublishStatus) -> None:
        for model in self._models:
            model.answered(key, answer)

    def _alive(self) -> bool:
        """Whether leases may be renewed: a worker whose last engine hangs is about to leave."""
        for model in self._models:
            if not model.has_failed:
                model.alive()
        return not self._failure.done()

    async def _show_card(self) -> None:
        """Renews the worker card, from which the API knows the models that are served."""
        since, stored = time.time(), False
        shown, outage = set[str](), Outage(log)
        while True:
            self._card_changed.clear()
            served = [model.served() for model in self._models if not model.has_failed]
            card = {"worker": self.name, "models": served, "spec": SPEC_VERSION, "since": since}
            try:
                await self._cards.put(self.name, card)
                if not stored:
                    stored = True
                    log.info("worker %s serves %s", self.name, ", ".join(model.model for model in self._models))
                    self._serving()
                for model, palette in tuple(self._palettes.items()):  # more may come meanwhile
                    if model not in shown or not await self._cards.keep_palette(model):
                        await self._cards.put_palette(model, palette)
                        shown.add(model)
            except (RedisError, OSError) as error:
                outage.failed("showing the card: %s", error)
            else:
                outage.over("the card is shown again")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._card_changed.wait(), self._cards.ttl_ms / 1000 / 4)

    async def _show_load(self) -> None:
        while True:
            load = {model.model: model.load() for model in self._models if not model.has_failed}
            with contextlib.suppress(RedisError, OSError):  # the next one comes soon
                await self._cards.put_load(self.name, load)
            await asyncio.sleep(LOAD_PAUSE)

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
                self._card_changed.set()

    async def _take_no_more(self) -> None:
        """Stops claiming. Waits for claims under way, so that no claimed job has to wait for its lease to end."""
        self._leaving.set()
        for model in self._models:
            model.take_no_more()
        if self._claiming:
            await asyncio.wait(tuple(self._claiming), timeout=LEAVING_SECONDS)

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

    async def _hand_back(self, models: Sequence[ModelWorker]) -> None:
        """Returns running jobs to their old place in the queue. A job of a failed engine may have been the reason, so
        it returns as a poison candidate."""
        if not (tasks := {task for model in models for task in model.tasks}):
            return
        for model in models:
            why: Interruption = "blamed" if model.has_failed else "released"
            log.info("leaving: %d jobs for %s are %s", len(model.tasks), model.model, why)
            model.interrupt(why)
        _, left = await asyncio.wait(tasks, timeout=LEAVING_SECONDS)
        await cancelled(*left)  # Redis is away: their leases will expire

    def _tasks(self) -> set[asyncio.Task[None]]:
        return {task for model in self._models for task in model.tasks}

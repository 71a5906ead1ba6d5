"""Claims jobs while the engine has room, drives it, and leaves in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from service.queue import Blobs, Cards, Claim, Queue, cancelled
from service.queue.contract import Answer
from service.worker.canvases import Canvases
from service.worker.codec_thread import CodecThread
from service.worker.engine_thread import EngineThread, StepReport
from service.worker.job import Interruption, JobRun, first
from service.worker.measures import measure
from service.worker.publisher import Attempt, Publisher

if TYPE_CHECKING:
    from engine.engine import Engine
    from service.metrics import Metrics
    from service.settings import Settings

log = logging.getLogger(__name__)

CLAIM_LIMIT = 32  # jobs a call
CLAIM_PAUSE = 0.03  # s between claims of a busy worker: what a new job may wait while others draw
IDLE_WAIT = 1.0  # s: an idle worker also looks by itself, for leases that ended
HUNG_SECONDS = 180.0  # a step that takes longer will not come back
LEAVING_SECONDS = 5.0
LAST_WORDS_SECONDS = 1.0


class WorkerFailed(Exception):
    """The engine stopped working: this process should be replaced."""


class Worker:
    """One engine, one model. `run` returns after the drain that `stop` asks for.

    Raises WorkerFailed when the engine is of no further use; the jobs it held go to other workers.
    """

    def __init__(
        self, engine: Engine, queue: Queue, blobs: Blobs, cards: Cards, metrics: Metrics, settings: Settings
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._engine = engine
        self._model = engine.model.name
        self._queue = queue
        self._blobs = blobs
        self._cards = cards
        self._metrics = metrics
        self._grace = settings.grace
        self._jobs: dict[Attempt, JobRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tokens_free = engine.tokens_free
        self._turned = asyncio.Event()  # the engine took a turn, or a job ended
        self._codec_thread = CodecThread()

    async def run(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        self._failure: asyncio.Future[None] = loop.create_future()
        self._thread = EngineThread(self._engine, lambda report: tell(loop, self._absorb, report))
        self._publisher = Publisher(self._queue, self._answered, self._alive)
        # Series that nobody has moved yet are there all the same.
        measure(self._metrics, self._model, StepReport(stats=self._engine.stats()))
        self._thread.start()
        self._codec_thread.start()
        publishing = asyncio.create_task(self._publisher.run(), name="publisher")
        showing = asyncio.create_task(self._show_card(), name="card")
        claiming = asyncio.create_task(self._claim(stop), name="claim")
        log.info("worker %s serves %s", self.name, self._model)
        try:
            await self._watch(claiming, publishing, showing)  # until the stop: it takes no more jobs
            await cancelled(showing)
            with contextlib.suppress(RedisError, OSError):
                await self._cards.remove(self.name)
            await self._watch(asyncio.create_task(self._drain(self._grace)), publishing)
        finally:
            if self._failure.done():
                # Who is known to have failed is told so. What else the engine held may have broken it: it is
                # not handed on, but loses its lease and is blamed.
                await self._drain(LAST_WORDS_SECONDS)
                await self._leave("lost")
            else:
                await self._leave("released")
            await cancelled(claiming, publishing, showing)
            self._thread.close()
            await asyncio.to_thread(self._thread.join, LEAVING_SECONDS)
            self._codec_thread.close()

    async def _watch(self, task: asyncio.Task[None], *background: asyncio.Task[None]) -> None:
        """Until this task is done. Raises what the engine or anything in the background failed with."""
        await first(task, self._failure, *background)
        for ended in (self._failure, *background, task):
            if ended.done():
                ended.result()

    async def _claim(self, stop: asyncio.Event) -> None:
        """Takes what fits, as soon as it fits, until the stop; never cancelled with a claim under way."""
        stopping = asyncio.ensure_future(stop.wait())
        while not stop.is_set():
            self._turned.clear()
            pledged = sum(job.unadmitted_cost for job in self._jobs.values())
            try:
                claims = await self._queue.claim(
                    self._model,
                    self.name,
                    budget=self._tokens_free - pledged,
                    limit=CLAIM_LIMIT,
                    alone=not self._jobs,
                )
            except (RedisError, OSError) as error:
                log.warning("claiming: %s; trying again", error)
                await asyncio.wait({stopping}, timeout=IDLE_WAIT)
                continue
            for claim in claims:
                try:
                    await self._take(claim)
                except (RedisError, OSError) as error:
                    log.warning("job %s is left: its lease will end: %s", claim.id, error)
            news: asyncio.Future[Any]
            if self._jobs:
                await asyncio.sleep(CLAIM_PAUSE)
                news = asyncio.ensure_future(self._turned.wait())
            else:
                news = asyncio.ensure_future(self._queue.wait([self._model], IDLE_WAIT))
            await asyncio.wait({news, stopping}, timeout=IDLE_WAIT + 1, return_when=asyncio.FIRST_COMPLETED)
            await cancelled(news)  # a bell that is lost with it is heard again within IDLE_WAIT
        stopping.cancel()

    async def _take(self, claim: Claim) -> None:
        try:
            canvases = Canvases(
                claim,
                card=self._engine.model,
                codec=self._engine.codec,
                engine=self._thread,
                blobs=self._blobs,
                publisher=self._publisher,
                in_thread=self._codec_thread.call,
            )
            job = JobRun(
                claim,
                canvases,
                card=self._engine.model,
                queue=self._queue,
                publisher=self._publisher,
                metrics=self._metrics,
            )
        except (KeyError, TypeError, ValueError) as error:
            log.error("job %s is no job", claim.id, exc_info=error)
            await self._refuse(claim)
            return
        for key in [key for key in self._jobs if key[0] == claim.id]:
            # We lost this job ourselves, and have it again: the old attempt must not speak for it.
            self._publisher.drop(key)
            self._jobs[key].interrupt("lost")
        key = job.key
        self._jobs[key] = job
        task = asyncio.create_task(job.run(), name=f"job {claim.id}")
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            del self._jobs[key]
            self._turned.set()
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("job %s was left: its lease will end", claim.id, exc_info=error)

        task.add_done_callback(ended)

    async def _refuse(self, claim: Claim) -> None:
        message = f"the payload of job {claim.id} does not fit this worker, whose log says why"
        told = {"code": "invalid_payload", "message": message}
        answer = await self._queue.finish(
            claim.id, claim.attempt, 1, state="failed", event="failed", data={"error": told}, error=told
        )
        if answer != "lost":
            task = claim.payload.get("task")
            known = task in self._engine.model.tasks  # else anything: no label for it
            self._metrics.requests.labels(task if known else "unknown", "failed").inc()

    def _absorb(self, report: StepReport) -> None:
        """A turn of the engine, on the event loop."""
        for ticket in report.added:
            if job := self._jobs.get((ticket.job_id, ticket.attempt)):
                job.admitted()
        for ticket, error in report.refused:
            if job := self._jobs.get((ticket.job_id, ticket.attempt)):
                job.refused(ticket, error)
        for ticket, update in report.updates:
            if job := self._jobs.get((ticket.job_id, ticket.attempt)):
                job.update(ticket, update)
        self._tokens_free = report.tokens_free
        measure(self._metrics, self._model, report)
        self._turned.set()
        if report.fatal is not None and not self._failure.done():
            self._failure.set_exception(WorkerFailed(f"{type(report.fatal).__name__}: {report.fatal}"))

    def _answered(self, key: Attempt, answer: Answer) -> None:
        job = self._jobs.get(key)
        if job is not None and answer in ("cancel", "lost"):
            job.interrupt("canceled" if answer == "cancel" else "lost")

    def _alive(self) -> bool:
        """Whether leases may be renewed: not for an engine that hangs."""
        if self._thread.busy_seconds() < HUNG_SECONDS:
            return True
        if not self._failure.done():
            self._failure.set_exception(WorkerFailed(f"a step has taken more than {HUNG_SECONDS:.0f} s"))
        return False

    async def _show_card(self) -> None:
        """The heartbeat that tells front ends what can be drawn here."""
        capacity = {"cache_tokens": self._engine.tokens_total, "page_size": self._engine.config.page_size}
        served = {"card": self._engine.model.to_json(), "capacity": capacity}
        card = {"worker": self.name, "models": [served], "since": time.time()}
        palette = self._engine.codec.palette.tobytes()
        fresh = True
        while True:
            try:
                if fresh or not await self._cards.keep_palette(self._model):
                    await self._cards.put_palette(self._model, palette)
                await self._cards.put(self.name, card)
                fresh = False
            except (RedisError, OSError) as error:
                log.warning("showing the card: %s", error)
            await asyncio.sleep(self._cards.ttl_ms / 1000 / 4)

    async def _drain(self, seconds: float) -> None:
        """Running jobs may finish."""
        if not self._tasks:
            return
        log.info("draining: %d jobs have %.0f s to finish", len(self._tasks), seconds)
        deadline = time.monotonic() + seconds
        while self._tasks and time.monotonic() < deadline:
            left = min(5.0, deadline - time.monotonic())
            await asyncio.wait(set(self._tasks), timeout=max(0.0, left), return_when=asyncio.ALL_COMPLETED)
            if self._tasks:
                log.info("draining: %d jobs left", len(self._tasks))

    async def _leave(self, why: Interruption) -> None:
        """What still runs goes back to the queue, to its old place, or is left to its lease."""
        if not self._tasks:
            return
        log.info("leaving: %d jobs are %s", len(self._tasks), why)
        for job in self._jobs.values():
            job.interrupt(why)
        _, left = await asyncio.wait(set(self._tasks), timeout=LEAVING_SECONDS)
        await cancelled(*left)  # Redis is away: their leases will end by themselves


def tell(loop: asyncio.AbstractEventLoop, absorb: Callable[[StepReport], None], report: StepReport) -> None:
    """From the engine's thread to the event loop, which may have closed meanwhile."""
    try:
        loop.call_soon_threadsafe(absorb, report)
    except RuntimeError:
        log.debug("a report came after the event loop closed")

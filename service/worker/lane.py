"""One model of a worker: its engine, the loop that claims its jobs, and the jobs that it draws."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from service.queue import Blobs, Claim, Queue, cancelled
from service.queue.contract import Answer
from service.worker.canvases import Canvases, InThread
from service.worker.engine_thread import EngineThread, StepReport
from service.worker.job import Interruption, JobRun
from service.worker.measures import Measures
from service.worker.publisher import Attempt, Publisher

if TYPE_CHECKING:
    from engine.engine import Engine
    from service.metrics import Metrics

log = logging.getLogger(__name__)

CLAIM_LIMIT = 32  # jobs a call
CLAIM_PAUSE = 0.03  # s between claims of a busy lane: what a new job may wait while others draw
IDLE_WAIT = 1.0  # s: an idle lane also looks by itself, for leases that ended
HUNG_SECONDS = 180.0  # a step that takes longer will not come back


class Lane:
    """Claims what its own engine has room for: no model waits behind another's backlog.

    `failed` is called once, with the reason, when the engine is of no further use.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        worker: str,
        queue: Queue,
        blobs: Blobs,
        publisher: Publisher,
        metrics: Metrics,
        in_thread: InThread,
        failed: Callable[[str], None],
    ) -> None:
        self.engine = engine
        self.model = engine.model.name
        self.has_failed = False
        self.tasks: set[asyncio.Task[None]] = set()  # of the jobs under way
        self._worker = worker
        self._queue = queue
        self._blobs = blobs
        self._publisher = publisher
        self._metrics = metrics
        self._in_thread = in_thread
        self._failed = failed
        self._measures = Measures(metrics, self.model)
        self._jobs: dict[Attempt, JobRun] = {}
        self._tokens_free = engine.tokens_free
        self._turned = asyncio.Event()  # the engine took a turn, or a job ended
        loop = asyncio.get_running_loop()
        self._thread = EngineThread(engine, lambda report: tell(loop, self._absorb, report))

    def served(self) -> dict[str, Any]:
        """What the worker's card says about the model."""
        engine = self.engine
        capacity = {"cache_tokens": engine.tokens_total, "page_size": engine.config.page_size}
        return {"card": engine.model.to_json(), "capacity": capacity}

    def start(self) -> None:
        # Series that nobody has moved yet are there all the same.
        self._measures.take(StepReport(stats=self.engine.stats()))
        self._thread.start()

    async def claim(self, leaving: asyncio.Event) -> None:
        """Takes what fits, as soon as it fits, until the worker leaves."""
        stopping = asyncio.ensure_future(leaving.wait())
        while not leaving.is_set():
            self._turned.clear()
            pledged = sum(job.unadmitted_cost for job in self._jobs.values())
            try:
                claims = await self._queue.claim(
                    self.model,
                    self._worker,
                    budget=self._tokens_free - pledged,
                    limit=CLAIM_LIMIT,
                    alone=not self._jobs,
                )
            except (RedisError, OSError) as error:
                log.warning("claiming for %s: %s; trying again", self.model, error)
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
                news = asyncio.ensure_future(self._queue.wait([self.model], IDLE_WAIT))
            await asyncio.wait({news, stopping}, timeout=IDLE_WAIT + 1, return_when=asyncio.FIRST_COMPLETED)
            await cancelled(news)  # a bell that is lost with it is heard again within IDLE_WAIT
        stopping.cancel()

    def answered(self, key: Attempt, answer: Answer) -> None:
        """What the queue said about a job, if it is one of this lane's."""
        job = self._jobs.get(key)
        if job is not None and answer in ("cancel", "lost"):
            job.interrupt("canceled" if answer == "cancel" else "lost")

    def alive(self) -> bool:
        """Whether leases may be renewed: not for an engine that hangs."""
        if self._thread.busy_seconds() < HUNG_SECONDS:
            return True
        self._fail(f"a step has taken more than {HUNG_SECONDS:.0f} s")
        return False

    def interrupt(self, why: Interruption) -> None:
        """All its jobs."""
        for job in self._jobs.values():
            job.interrupt(why)

    def close(self) -> None:
        """Ends the engine's thread after the step under way; does not wait."""
        self._thread.close()

    def join(self, seconds: float) -> bool:
        """Waits for the engine's thread, and blocks. False: it still runs."""
        return self._thread.join(seconds)

    async def _take(self, claim: Claim) -> None:
        try:
            canvases = Canvases(
                claim,
                card=self.engine.model,
                codec=self.engine.codec,
                engine=self._thread,
                fork=self.engine.fork,
                blobs=self._blobs,
                publisher=self._publisher,
                in_thread=self._in_thread,
            )
            job = JobRun(
                claim,
                canvases,
                card=self.engine.model,
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
        self.tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self.tasks.discard(task)
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
            known = task in self.engine.model.tasks  # else anything: no label for it
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
        self._measures.take(report)
        self._turned.set()
        if report.fatal is not None:
            self._fail(f"{type(report.fatal).__name__}: {report.fatal}")

    def _fail(self, why: str) -> None:
        if not self.has_failed:
            self.has_failed = True
            self._failed(f"the engine of {self.model}: {why}")


def tell(loop: asyncio.AbstractEventLoop, absorb: Callable[[StepReport], None], report: StepReport) -> None:
    """From the engine's thread to the event loop, which may have closed meanwhile."""
    try:
        loop.call_soon_threadsafe(absorb, report)
    except RuntimeError:
        log.debug("a report came after the event loop closed")

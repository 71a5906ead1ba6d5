"""One model of a worker: its engine, the loop that claims its jobs, and the jobs that it draws."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from redis.exceptions import RedisError

from service import logs
from service.jobs import BlobStore, Claim, EndedJob, Queue, cancelled
from service.jobs.messages import AttemptKey, PublishStatus
from service.jobs.spec import InvalidSpec, UnsupportedVersion, decode, named_model, task_of
from service.worker import events
from service.worker.claiming import IDLE_WAIT, Claimer, Quarantine
from service.worker.engine_metrics import EngineMetrics
from service.worker.engine_thread import EngineFailed, EngineReport, EngineThread, ImageKey
from service.worker.execution import Interruption, JobExecution
from service.worker.picture import ModelContext
from service.worker.publisher import Publisher
from service.worker.threads.codec_thread import CodecThread
from service.worker.threads.large_pictures import LargePictures
from service.worker.threads.report_box import ReportBox

if TYPE_CHECKING:
    from engine.core.engine import Engine
    from service.metrics import Metrics

log = logging.getLogger(__name__)

CLAIM_PAUSE = 0.03  # s between the claims of a busy model worker: a new job waits no longer than this


class ModelWorker:
    """Claims what its own engine has room for, so that no model waits for another's backlog, only for its poison
    candidates.

    failed: called once, with this model worker and the reason, when the engine can't be used any more. hung_seconds: a
    step that takes longer counts as hung. most_pixels: of pictures that are claimed and not stored.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        worker: str,
        queue: Queue,
        blobs: BlobStore,
        publisher: Publisher,
        metrics: Metrics,
        codec_thread: CodecThread,
        large_pictures: LargePictures,
        quarantine: Quarantine,
        hung_seconds: float,
        most_pixels: int,
        failed: Callable[[ModelWorker, str], None],
    ) -> None:
        self.engine = engine
        self.model = engine.model.name
        self.has_failed = False
        self.tasks: set[asyncio.Task[None]] = set()  # of the jobs under way
        self._queue = queue
        self._publisher = publisher
        self._metrics = metrics
        self._quarantine = quarantine
        self._hung_seconds = hung_seconds
        self._failed = failed
        self._claimer = Claimer(queue, self.model, worker, quarantine, most_pixels)
        self._engine_metrics = EngineMetrics(metrics, engine)
        self._jobs: dict[AttemptKey, JobExecution] = {}
        self._leaving: set[AttemptKey] = set()  # jobs that have ended; the engine may still draw a step of them
        self._tokens_free = engine.tokens_free
        self._draws = False  # whether the engine has anything to draw
        self._progress = asyncio.Event()  # the engine ended a cycle, or a job ended
        self._stopped = asyncio.Event()  # it claims no more
        self._thread = EngineThread(engine, ReportBox(self._absorb).put)
        self._context = ModelContext(
            card=engine.model,
            codec=engine.codec,
            text_encoder=engine.text_encoder,
            engine=self._thread,
            fork=engine.fork,
            queue=queue,
            blobs=blobs,
            publisher=publisher,
            metrics=metrics,
            codec_thread=codec_thread,
            large_pictures=large_pictures,
        )

    def served(self) -> dict[str, Any]:
        """What the worker's card says about the model."""
        engine = self.engine
        capacity = {"cache_tokens": engine.tokens_total, "page_size": engine.config.page_size}
        return {"card": engine.model.to_json(), "capacity": capacity}

    def load(self) -> dict[str, float]:
        return self._engine_metrics.load()

    def start(self, cores: Callable[[], int]) -> None:
        self.began = time.monotonic()
        self._thread.start(cores)

    def take_no_more(self) -> None:
        """Ends `claim`, after a claim that is under way."""
        self._stopped.set()

    async def claim(self) -> None:
        """Claims jobs as soon as they fit, until `take_no_more`."""
        stopping = asyncio.ensure_future(self._stopped.wait())
        while not self._stopped.is_set():
            self._progress.clear()
            try:
                async with self._quarantine.turn:
                    await self._take_what_fits(stopping)
            except RedisError as error:  # Redis answered with an error
                log.warning("claiming for %s: %s; trying again", self.model, error)
                await asyncio.wait({stopping}, timeout=IDLE_WAIT)
            else:
                await self._wait_for_work(stopping)
        stopping.cancel()

    async def _take_what_fits(self, stopping: asyncio.Future[Any]) -> None:
        if not self._quarantine.may_claim(self.model):
            return
        pledged = sum(job.unadmitted_cost for job in self._jobs.values())
        unstored: Counter[str] = Counter()
        for job in self._jobs.values():
            unstored[job.claim.client] += job.unstored_pixels
        budget, alone = self._tokens_free - pledged, not self._jobs
        claims = await self._claimer.ask(stopping, budget=budget, alone=alone, held=unstored)
        if claims is None:
            return
        self._metrics.lease_takeovers.labels(self.model).inc(claims.taken_over)
        for ended in claims.ended:
            self._count(ended)
        for claim in claims:
            try:
                await self._take(claim)
            except (RedisError, OSError) as error:
                log.warning("job %s is left: its lease will end: %s", claim.id, error)

    async def _wait_for_work(self, stopping: asyncio.Future[Any]) -> None:
        """Waits until there may be something to claim, or the worker leaves."""
        events: list[Coroutine[Any, Any, Any]] = []
        if not self._quarantine.may_claim(self.model):
            events.append(self._quarantine.opened())
        else:
            if self._jobs or self._leaving:
                await asyncio.sleep(CLAIM_PAUSE)
                events.append(self._progress.wait())
            if not self._draws:  # its jobs, if it has any, wait for pictures to be read or stored
                events.append(self._claimer.wait_for_notification())
        work = [asyncio.ensure_future(event) for event in events]
        await asyncio.wait({*work, stopping}, timeout=IDLE_WAIT + 1, return_when=asyncio.FIRST_COMPLETED)
        await cancelled(*work)  # a notification that is lost here delays the claim by the idle wait at most

    def answered(self, key: AttemptKey, answer: PublishStatus) -> None:
        """The queue's answer for a job, which may be another model's."""
        job = self._jobs.get(key)
        if job is not None and answer in ("cancel", "lost"):
            job.interrupt("canceled" if answer == "cancel" else "lost")

    def alive(self) -> bool:
        """Whether leases may be renewed: not while the engine hangs."""
        if self._thread.busy_seconds() < self._hung_seconds:
            return True
        self._fail(f"a step has taken more than {self._hung_seconds:.0f} s")
        return False

    def interrupt(self, why: Interruption) -> None:
        """Interrupts all jobs."""
        for job in self._jobs.values():
            job.interrupt(why)

    def close(self) -> None:
        """Ends the engine's thread after the step under way. Returns at once."""
        self._thread.close()

    def join(self, seconds: float) -> bool:
        """Blocks until the engine's thread has ended. False: it still runs."""
        return self._thread.join(seconds)

    def forget(self) -> None:
        """After its end: nothing of it is in an engine any more."""
        self._quarantine.forget(self.model, self._leaving)
        self._engine_metrics.engine_gone()

    async def _take(self, claim: Claim) -> None:
        try:
            job = JobExecution(claim, decode(claim.spec), self._context)
        except UnsupportedVersion as error:
            await self._refuse(claim, "unsupported_job_version", f"job {claim.id}: {error}")
            return
        except (InvalidSpec, ValidationError) as error:  # of the spec, or of what an earlier attempt stored
            log.error("job %s is no job", claim.id, exc_info=error)
            message = f"job {claim.id} can't be read by this worker, whose log says why"
            await self._refuse(claim, "invalid_payload", message)
            return
        for key in [key for key in self._jobs if key[0] == claim.id]:
            # This worker lost the job and has claimed it again: the old attempt must publish nothing more.
            self._publisher.unregister(key)
            self._jobs[key].interrupt("lost")
        key = job.key
        self._jobs[key] = job
        self._quarantine.hold(key, alone=claim.alone)
        task = asyncio.create_task(job.run(), name=f"job {claim.id}")
        self.tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self.tasks.discard(task)
            del self._jobs[key]
            self._leaving.add(key)
            self._thread.leave(key)
            self._progress.set()
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("job %s was left: its lease will end", claim.id, exc_info=error)

        task.add_done_callback(ended)

    async def _refuse(self, claim: Claim, code: str, message: str) -> None:
        log.error("%s: %s", code, message)
        error = {"code": code, "message": message}
        answer = await self._queue.finish(
            claim.id, claim.attempt, 1, state="failed", event="failed", data=events.failed(error), error=error
        )
        if answer == "ok":
            seconds = claim.queued_seconds
            self._count(
                EndedJob(
                    id=claim.id,
                    state="failed",
                    spec=claim.spec,
                    code=code,
                    request_id=claim.request_id,
                    seconds=seconds,
                )
            )

    def _count(self, ended: EndedJob) -> None:
        """Counts and logs a job that ended before it was drawn here."""
        task = task_of(ended.spec)
        label = task if task in self.engine.model.tasks else None  # a label is never a client's text
        self._metrics.count_end(self.model, label, ended.state, ended.code)
        about = {"request_id": ended.request_id, "model": named_model(ended.spec), "task": task}
        logs.job_line(ended.id, ended.state, code=ended.code, seconds=ended.seconds, **about)

    def _absorb(self, report: EngineReport) -> None:
        """Takes in the report of one cycle of the engine, on the event loop."""
        if self.has_failed:  # a step that hung has ended after all
            return
        self._tokens_free = report.tokens_free
        self._draws = report.stats is not None and report.stats.running + report.stats.waiting > 0
        self._engine_metrics.take(report)
        self._progress.set()
        for key in report.added:
            if job := self._jobs.get(key.attempt_key):
                job.pictures[key.image].admitted()
        for key, error in (*report.refused, *report.given_up):
            self._fail_picture(key, error)
        for key, output in report.updates:
            if job := self._jobs.get(key.attempt_key):
                job.update(key.image, output)
        if report.fatal is not None:  # the worker leaves now, and blames all jobs in the engine
            self._fail(f"{type(report.fatal).__name__}: {report.fatal}")
            return
        # A job that ended during the step is still held: it may have been the reason.
        failed = EngineFailed(report.failure, alone=self._quarantine.holds_one)
        for key in report.failed:
            self._fail_picture(key, failed)
        for attempt in report.left:
            self._leaving.discard(attempt)
            self._quarantine.leave(attempt)

    def _fail_picture(self, key: ImageKey, error: Exception) -> None:
        if job := self._jobs.get(key.attempt_key):
            job.pictures[key.image].fail(error)

    def _fail(self, why: str) -> None:
        if not self.has_failed:
            self.has_failed = True
            self._failed(self, f"the engine of {self.model}: {why}")

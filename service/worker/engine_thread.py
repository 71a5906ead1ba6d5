"""The thread that drives the engine. Requests and aborts go in, a report of each cycle comes out."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from engine.core.pages import IntegrityError
from engine.request import Request
from service.jobs.messages import AttemptKey
from service.worker.threads.background import show_name
from service.worker.threads.cores import ONE, compute_with

if TYPE_CHECKING:
    from engine.core.engine import Engine, EngineStats
    from engine.request import RequestOutput

log = logging.getLogger(__name__)

FailureCode = Literal["engine_failed", "not_finite", "out_of_memory"]


class EngineFailed(Exception):
    """A step raised in which a job took part. alone: no other job can have been the reason."""

    def __init__(self, code: FailureCode, *, alone: bool) -> None:
        super().__init__(code)
        self.code = code
        self.alone = alone


@dataclass(frozen=True, slots=True)
class ImageKey:
    """One picture of one attempt at a job."""

    job_id: str
    attempt: int
    image: int

    @property
    def attempt_key(self) -> AttemptKey:
        return self.job_id, self.attempt


@dataclass(slots=True)
class EngineReport:
    """What one cycle of the thread did. `tokens_free` is counted after it.

    given_up: pictures that the engine could not draw although it draws others. failed: pictures whose cache was lost
    because a step failed; failure: why it did. left: attempts of which nothing is in the engine any more.
    """

    added: list[ImageKey] = field(default_factory=list)
    refused: list[tuple[ImageKey, Exception]] = field(default_factory=list)
    updates: list[tuple[ImageKey, RequestOutput]] = field(default_factory=list)
    given_up: list[tuple[ImageKey, EngineFailed]] = field(default_factory=list)
    failed: list[ImageKey] = field(default_factory=list)
    failure: FailureCode = "engine_failed"
    left: list[AttemptKey] = field(default_factory=list)
    step_seconds: float | None = None  # None: no step was taken
    stats: EngineStats | None = None
    tokens_free: int = 0
    fatal: BaseException | None = None  # the engine can't be used any more

    @property
    def urgent(self) -> bool:
        """Whether it tells of more than tokens of pictures that the engine goes on drawing."""
        if self.added or self.refused or self.given_up or self.failed or self.left or self.fatal:
            return True
        if self.stats is None or not (self.stats.running or self.stats.waiting):
            return True  # no other report follows soon
        return any(output.finished for _, output in self.updates)


class EngineThread:
    """`deliver` is called on this thread with every report; all other methods are for any thread."""

    def __init__(self, engine: Engine, deliver: Callable[[EngineReport], None]) -> None:
        self._engine = engine
        self._deliver = deliver
        self._inbox: list[tuple[ImageKey | AttemptKey, Request | None]] = []  # None: abort, or an attempt that leaves
        self._wake = threading.Condition()
        self._closing = False
        self._ids: dict[ImageKey, int] = {}
        self._keys: dict[int, ImageKey] = {}
        self._suspects: dict[ImageKey, Exception] = {}
        self._cycle_began: float | None = None
        self._cores: Callable[[], int] = lambda: ONE
        self._used_cores = ONE
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self, cores: Callable[[], int]) -> None:
        """cores: how many the next step computes with."""
        self._cores = cores
        self._thread.start()

    def add(self, key: ImageKey, request: Request) -> None:
        self._post(key, request)

    def abort(self, key: ImageKey) -> None:
        self._post(key, None)

    def leave(self, attempt: AttemptKey) -> None:
        """To be called after all its aborts: a report will then name it in `left`."""
        self._post(attempt, None)

    def close(self) -> None:
        """Ends the thread after the step under way. Returns at once."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    def join(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def busy_seconds(self) -> float:
        """How long the cycle under way has taken so far."""
        began = self._cycle_began
        return 0.0 if began is None else time.monotonic() - began

    def _post(self, subject: ImageKey | AttemptKey, request: Request | None) -> None:
        with self._wake:
            self._inbox.append((subject, request))
            self._wake.notify()

    def _run(self) -> None:
        show_name()
        compute_with(self._used_cores)
        while True:
            with self._wake:
                while not (self._inbox or self._closing) and self._engine.idle:
                    self._wake.wait()
                if self._closing:
                    return
                inbox, self._inbox = self._inbox, []
            self._cycle_began = time.monotonic()
            report = EngineReport()
            try:
                self._cycle(inbox, report)
            except Exception as error:
                log.exception("the engine can't be used any more")
                report.fatal = error
            self._cycle_began = None
            self._deliver(report)
            if report.fatal is not None:
                return

    def _cycle(self, inbox: list[tuple[ImageKey | AttemptKey, Request | None]], report: EngineReport) -> None:
        for subject, request in inbox:
            if not isinstance(subject, ImageKey):
                report.left.append(subject)
            elif request is not None:
                self._admit(subject, request, report)
            elif (request_id := self._ids.pop(subject, None)) is not None:
                del self._keys[request_id]
                self._engine.abort(request_id)
            else:
                self._suspects.pop(subject, None)
        if not self._engine.idle:
            self._step(report)
        report.stats = self._engine.stats()
        report.tokens_free = self._engine.tokens_free

    def _admit(self, key: ImageKey, request: Request, report: EngineReport) -> None:
        try:
            request_id = self._engine.add(request)
        except Exception as error:  # one wrong request must not stop the others
            report.refused.append((key, error))
        else:
            self._ids[key], self._keys[request_id] = request_id, key
            report.added.append(key)

    def _step(self, report: EngineReport) -> None:
        if (cores := self._cores()) != self._used_cores:
            compute_with(cores)
            self._used_cores = cores
        began = time.monotonic()
        try:
            updates = self._engine.step()
        except IntegrityError:
            raise
        except Exception as error:
            log.exception("a step failed with %d pictures under way", len(self._ids))
            report.failure = code_of(error)
            traceback.clear_frames(error.__traceback__)  # and the tensors in them
            self._drop_all(report)
            self._probe()
            self._acquit_the_engine(report)
            return
        report.step_seconds = time.monotonic() - began
        for update in updates:
            key = self._keys[update.id]
            if update.error is not None:
                self._suspects[key] = update.error
            else:
                report.updates.append((key, update))
            if update.finished or update.error is not None:
                del self._keys[update.id], self._ids[key]
        if self._suspects and not report.updates:
            if not self._engine.idle:
                return  # a later step shows whether the engine draws others
            self._probe()
        self._acquit_the_engine(report)

    def _acquit_the_engine(self, report: EngineReport) -> None:
        """It draws others, so the pictures that it gave up are the reason themselves."""
        for key, error in self._suspects.items():
            report.given_up.append((key, EngineFailed(code_of(error), alone=True)))
        self._suspects.clear()

    def _drop_all(self, report: EngineReport) -> None:
        for key, request_id in self._ids.items():
            self._engine.abort(request_id)
            report.failed.append(key)
        self._ids.clear()
        self._keys.clear()

    def _probe(self) -> None:
        """Tries whether the idle engine can still draw. If it can't, no job was the reason: raises the error."""
        error: Exception | None = None
        labels = (0, None) if self._engine.model.classes else (None,)
        for label in labels:  # one of them may be what a request was given up for
            request_id = self._engine.add(Request(class_label=label, guidance_scale=1.0))
            outputs: list[RequestOutput] = []
            while not outputs:
                outputs = self._engine.step()
            if (error := outputs[0].error) is None:
                self._engine.abort(request_id)
                return
        assert error is not None
        raise error


def code_of(error: BaseException) -> FailureCode:
    """By the names of the classes: torch has its own error for a device without memory, and may not be installed."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if "FloatingPointError" in names:
        return "not_finite"
    return "out_of_memory" if names & {"MemoryError", "OutOfMemoryError"} else "engine_failed"

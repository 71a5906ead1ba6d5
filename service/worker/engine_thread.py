"""The thread that drives the engine: requests and aborts in, step reports out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.pages import IntegrityError
from engine.request import Request

if TYPE_CHECKING:
    from engine.engine import Engine, EngineStats, Update

log = logging.getLogger(__name__)

FAILED_STEPS = 2  # in a row: what fails again without those who failed first is the engine itself


@dataclass(frozen=True, slots=True)
class Ticket:
    """One picture of one attempt at a job."""

    job_id: str
    attempt: int
    image: int


class EngineFailed(Exception):
    """A step raised (its error is the cause): whoever took part in it has lost its cache."""


@dataclass(slots=True)
class StepReport:
    """What one turn of the thread did. `tokens_free` counts after it."""

    added: list[Ticket] = field(default_factory=list)
    refused: list[tuple[Ticket, Exception]] = field(default_factory=list)
    updates: list[tuple[Ticket, Update]] = field(default_factory=list)
    step_seconds: float | None = None  # None: no step was taken
    stats: EngineStats | None = None
    tokens_free: int = 0
    fatal: BaseException | None = None  # the engine is of no further use


class EngineThread:
    """`deliver` is called on this thread with every report; all other methods are for any thread."""

    def __init__(self, engine: Engine, deliver: Callable[[StepReport], None]) -> None:
        self._engine = engine
        self._deliver = deliver
        self._inbox: list[tuple[Ticket, Request | None]] = []  # None: abort
        self._wake = threading.Condition()
        self._closing = False
        self._ids: dict[Ticket, int] = {}
        self._tickets: dict[int, Ticket] = {}
        self._failed_steps = 0  # since the last one that drew
        self._turn_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, ticket: Ticket, request: Request) -> None:
        self._post(ticket, request)

    def abort(self, ticket: Ticket) -> None:
        self._post(ticket, None)

    def close(self) -> None:
        """Ends the thread after the step under way; does not wait."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    def join(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def busy_seconds(self) -> float:
        """How long the turn under way has taken so far."""
        began = self._turn_began
        return 0.0 if began is None else time.monotonic() - began

    def _post(self, ticket: Ticket, request: Request | None) -> None:
        with self._wake:
            self._inbox.append((ticket, request))
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._inbox or self._closing) and self._engine.idle:
                    self._wake.wait()
                if self._closing:
                    return
                inbox, self._inbox = self._inbox, []
            self._turn_began = time.monotonic()
            report = StepReport()
            try:
                self._turn(inbox, report)
            except Exception as error:
                log.exception("the engine is of no further use")
                report.fatal = error
            self._turn_began = None
            self._deliver(report)
            if report.fatal is not None:
                return

    def _turn(self, inbox: list[tuple[Ticket, Request | None]], report: StepReport) -> None:
        for ticket, request in inbox:
            if request is not None:
                self._admit(ticket, request, report)
            elif (request_id := self._ids.pop(ticket, None)) is not None:
                del self._tickets[request_id]
                self._engine.abort(request_id)
        if not self._engine.idle:
            self._step(report)
        report.stats = self._engine.stats()
        report.tokens_free = self._engine.tokens_free

    def _admit(self, ticket: Ticket, request: Request, report: StepReport) -> None:
        try:
            request_id = self._engine.add(request)
        except Exception as error:  # whatever is wrong with one request is no reason to drop the others
            report.refused.append((ticket, error))
        else:
            self._ids[ticket], self._tickets[request_id] = request_id, ticket
            report.added.append(ticket)

    def _step(self, report: StepReport) -> None:
        began = time.monotonic()
        try:
            updates = self._engine.step()
        except Exception as error:
            self._failed_steps += 1
            if isinstance(error, IntegrityError) or self._failed_steps >= FAILED_STEPS:
                raise
            log.exception("a step failed with %d pictures under way", len(self._ids))
            self._refuse_all(error, report)
            return
        report.step_seconds = time.monotonic() - began
        if self._engine.stats().rows_last_step:  # else it only dropped who had left
            self._failed_steps = 0
        for update in updates:
            ticket = self._tickets[update.id]
            report.updates.append((ticket, update))
            if update.finished:
                del self._tickets[update.id], self._ids[ticket]

    def _refuse_all(self, error: Exception, report: StepReport) -> None:
        for ticket, request_id in self._ids.items():
            self._engine.abort(request_id)
            failed = EngineFailed()
            failed.__cause__ = error
            report.refused.append((ticket, failed))
        self._ids.clear()
        self._tickets.clear()

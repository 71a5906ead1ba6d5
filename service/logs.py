"""What the processes log: messages as text or as JSON, and one line for each request and for each job.

The lines of one request have its id in every process: the API gives the id to the job, and the worker's lines about the
job tell it too. Logs hold no keys, no query strings (which may hold the token of a signed address) and no bodies.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

LogFormat = Literal["text", "json"]

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

_lines = logging.getLogger("service.lines")

LONGEST_SILENCE = 30.0
"""Seconds between two lines about the same outage."""

_context: ContextVar[dict[str, Any] | None] = ContextVar("log_context", default=None)


class JSONFormatter(logging.Formatter):
    """A JSON object on one line, without the members that are None or empty."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        told |= _context.get() or {}
        told |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps({key: _finite(one) for key, one in told.items() if one not in (None, "")}, default=str)


def set_up(level: str, form: LogFormat) -> None:
    """Logs to standard error. In text, the lines of requests and jobs are logged only at level debug, as a person who
    watches a terminal does not want them."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter() if form == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for client in ("httpx2", "httpx"):  # the hub's and the webhooks' tell every address, with the tokens in it
        logging.getLogger(client).setLevel(logging.WARNING)
    detailed = form == "json" or level.lower() == "debug"
    _lines.setLevel(logging.NOTSET if detailed else logging.WARNING)
    if form == "json":
        logging.captureWarnings(True)
        sys.excepthook = _log_crash
        threading.excepthook = lambda crash: _log_crash(
            crash.exc_type, crash.exc_value or crash.exc_type(), crash.exc_traceback
        )


def status(text: str, level: int = logging.INFO) -> None:
    """Tells the person who started the process something: on standard error, and as JSON where the logs are JSON."""
    if _as_json():
        logging.getLogger("service").log(level, text)
    else:
        print(text, file=sys.stderr, flush=True)


def secret(text: str) -> None:
    """As status, but never into a log: on standard output where the logs are JSON."""
    print(text, file=sys.stdout if _as_json() else sys.stderr, flush=True)


@contextmanager
def about(**fields: Any) -> Iterator[dict[str, Any]]:
    """Whatever is logged inside, and by tasks and threads that begin inside, has these fields. Yields them all, those
    that `tell` adds included."""
    held = dict(fields)
    before = _context.set(held)
    try:
        yield held
    finally:
        _context.reset(before)


def tell(**fields: Any) -> None:
    """Adds fields to the innermost `about`, if there is one."""
    held = _context.get()
    if held is not None:
        held.update(fields)


def tell_if_missing(**fields: Any) -> None:
    """As tell, for what may be known better already."""
    held = _context.get()
    if held is not None:
        held.update({**fields, **held})


def known(name: str) -> str:
    """A field of the innermost `about`; empty if there is none."""
    return str((_context.get() or {}).get(name, ""))


def line(event: str, message: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """The line of a request, a job or an attempt. None: the field is left out."""
    _lines.log(level, message, extra={"fields": {"event": event, **fields}})


class Outage:
    """What is logged of a call that is repeated until it succeeds: the first failure at once, later ones after 1, 2,
    4 … 30 s, and the success. told: whether the first failure was logged already."""

    def __init__(self, log: logging.Logger, *, told: bool = False) -> None:
        self._log = log
        self._began: float | None = None
        self._due = self._pause = 0.0
        if told:
            self._begin(1.0)

    def failed(self, message: str, *values: object) -> None:
        now = time.monotonic()
        if self._began is None:
            self._begin(0.0)
        if now >= self._due:
            self._log.warning(message, *values)
            self._due = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_SILENCE)

    def over(self, what: str) -> None:
        """It has succeeded, perhaps without a failure before."""
        if self._began is not None:
            self._log.info("%s after %.0f s", what, time.monotonic() - self._began)
            self._began = None

    def _begin(self, silence: float) -> None:
        self._began = time.monotonic()
        self._due = self._began + silence
        self._pause = 2 * silence or 1.0


EXPIRED = frozenset({"expired_waiting", "start_timeout"})
"""The codes of jobs that failed because no worker claimed them in time."""


def job_line(job_id: str, state: str, *, code: str = "", seconds: float, **fields: Any) -> None:
    """The line of a job that has ended. seconds: since it was accepted. The other fields are those of `line`."""
    outcome = "expired" if code in EXPIRED else state
    timings = {"total_seconds": seconds, **fields.pop("timings", {})}
    message = f"job {job_id}: {outcome}{code and f', {code},'} after {seconds:.3f} s"
    line("job", message, job_id=job_id, outcome=outcome, code=code or None, timings=timings, **fields)


def _as_json() -> bool:
    return any(isinstance(handler.formatter, JSONFormatter) for handler in logging.getLogger().handlers)


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN. Six decimals are microseconds."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return {key: _finite(one) for key, one in value.items()} if isinstance(value, dict) else value


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("service").critical("the process ends", exc_info=(kind, error, trace))

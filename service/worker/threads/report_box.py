"""Reports on their way from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from service.worker.engine_thread import EngineReport

log = logging.getLogger(__name__)

PACE_SECONDS = 0.04
"""The event loop is woken no more often than this for tokens alone. A wake-up for every step would cost more than some
steps take: both threads need Python's lock, and on few cores the loop takes one from the step's own threads."""


class ReportBox:
    """Keeps reports that tell of nothing but drawn tokens, until the next that does or until the time is up."""

    def __init__(self, absorb: Callable[[EngineReport], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._absorb = absorb
        self._lock = threading.Lock()
        self._reports: list[EngineReport] = []
        self._woken = False
        self._taken_at = 0.0

    def put(self, report: EngineReport) -> None:
        """On the engine's thread."""
        with self._lock:
            self._reports.append(report)
            if self._woken or not (report.urgent or time.monotonic() - self._taken_at >= PACE_SECONDS):
                return
            self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._take)
        except RuntimeError:
            log.debug("a report came after the event loop closed")

    def _take(self) -> None:
        with self._lock:
            reports, self._reports = self._reports, []
            self._woken, self._taken_at = False, time.monotonic()
        for report in reports:
            self._absorb(report)

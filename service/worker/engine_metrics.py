"""The engine's reports as metrics."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from engine.core.scheduler import Limit
from service.worker.engine_thread import EngineReport

if TYPE_CHECKING:
    from engine.core.engine import Engine, EngineStats
    from service.metrics import Metrics


RATE_SECONDS = 2.0
"""The tokens of so long a time make a rate."""

_STATM = Path("/proc/self/statm")


class EngineMetrics:
    """For one engine. Exports all series of its model from the start."""

    def __init__(self, metrics: Metrics, engine: Engine) -> None:
        self._metrics = metrics
        self._before: EngineStats | None = None
        self._drawn: deque[tuple[float, int]] = deque()  # when, and how many tokens
        card = engine.model
        self._model = model = card.name
        about = {"family": card.family, "weights": card.weights, "tokenizer": card.tokenizer}
        metrics.model_info.labels(model).info(about)
        metrics.know_model(model, card.tasks)
        for task in card.tasks:
            metrics.e2e_request_latency_seconds.labels(model, task)
        for series in (
            metrics.lease_takeovers,
            metrics.request_queue_time_seconds,
            metrics.time_to_first_token_seconds,
            metrics.images,
            metrics.generation_tokens,
            metrics.step_seconds,
            metrics.step_rows,
        ):
            series.labels(model)
        metrics.kv_cache_bytes.labels(model).set(engine.kv_cache_bytes)
        # Read at each scrape.
        if _STATM.exists():
            metrics.worker_memory.labels("cpu").set_function(resident_memory)
        metrics.worker_memory.labels("cuda").set_function(device_memory)
        self.take(EngineReport(stats=engine.stats()))

    def take(self, report: EngineReport) -> None:
        stats, metrics, model = report.stats, self._metrics, self._model
        if drawn := sum(len(output.tokens) for _, output in report.updates):
            self._drawn.append((time.monotonic(), drawn))
            self._forget_old()
        if stats is None:
            return
        if report.step_seconds is not None and stats.rows_last_step:
            metrics.step_seconds.labels(model).observe(report.step_seconds)
            metrics.step_rows.labels(model).observe(stats.rows_last_step)
        for counter, total in (
            (metrics.rows, "rows_total"),
            (metrics.kv_rows_shared, "rows_shared_total"),
            (metrics.kv_pages_copied, "pages_copied_total"),
        ):
            before = 0 if self._before is None else getattr(self._before, total)
            counter.labels(model).inc(getattr(stats, total) - before)
        self._before = stats
        metrics.num_requests_running.labels(model).set(stats.running)
        metrics.num_requests_waiting.labels(model).set(stats.waiting)
        metrics.kv_pages_used.labels(model).set(stats.pages_used)
        metrics.kv_pages.labels(model).set(stats.pages_total)
        metrics.kv_cache_usage.labels(model).set(stats.pages_used / stats.pages_total)
        for cap in get_args(Limit):
            metrics.step_limit.labels(model, cap).set(stats.limit == cap)

    def load(self) -> dict[str, float]:
        """What the engine does now; workers' loads can be added up."""
        self._forget_old()
        stats = self._before
        return {
            "pictures": 0 if stats is None else stats.running,
            "tokens_per_second": sum(count for _, count in self._drawn) / RATE_SECONDS,
            "kv_pages": 0 if stats is None else stats.pages_total,
            "kv_pages_used": 0 if stats is None else stats.pages_used,
        }

    def _forget_old(self) -> None:
        while self._drawn and self._drawn[0][0] < time.monotonic() - RATE_SECONDS:
            self._drawn.popleft()

    def engine_gone(self) -> None:
        """Nothing of it runs, waits or holds pages, and there is no cache."""
        metrics = self._metrics
        for gauge in (
            metrics.num_requests_running,
            metrics.num_requests_waiting,
            metrics.kv_pages_used,
            metrics.kv_pages,
            metrics.kv_cache_usage,
            metrics.kv_cache_bytes,
        ):
            gauge.labels(self._model).set(0)
        for cap in get_args(Limit):
            self._metrics.step_limit.labels(self._model, cap).set(0)


def resident_memory() -> int:
    """Bytes of this process in main memory."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def device_memory() -> int:
    """Bytes that this process's tensors hold on GPUs. 0 without torch, which only the engine imports."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.memory_allocated(device) for device in range(torch.cuda.device_count()))

"""The engine's reports as metrics."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, get_args

from engine.core.scheduler import Limit
from service.worker.engine_thread import EngineReport

if TYPE_CHECKING:
    from engine.core.engine import EngineStats
    from service.metrics import Metrics


class EngineMetrics:
    """For one engine."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._before: EngineStats | None = None

    def take(self, report: EngineReport) -> None:
        stats, metrics, model = report.stats, self._metrics, self._model
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
        metrics.requests_running.labels(model).set(stats.running)
        metrics.requests_waiting.labels(model).set(stats.waiting)
        metrics.kv_pages_used.labels(model).set(stats.pages_used)
        metrics.kv_pages_total.labels(model).set(stats.pages_total)
        for cap in get_args(Limit):
            metrics.step_limit.labels(model, cap).set(stats.limit == cap)
        if (held := device_memory()) is not None:
            metrics.cuda_memory_bytes.set(held)

    def engine_gone(self) -> None:
        """Nothing of it runs, waits or holds pages."""
        for gauge in (self._metrics.requests_running, self._metrics.requests_waiting, self._metrics.kv_pages_used):
            gauge.labels(self._model).set(0)
        for cap in get_args(Limit):
            self._metrics.step_limit.labels(self._model, cap).set(0)


def device_memory() -> int | None:
    """Bytes that this process's tensors hold on GPUs. None without torch, which only the engine imports."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return sum(torch.cuda.memory_allocated(device) for device in range(torch.cuda.device_count()))

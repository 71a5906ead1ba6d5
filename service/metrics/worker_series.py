"""The series of one worker after another as those of one process."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric

from service.metrics.exposition import merged

COUNTING = frozenset({"counter", "histogram", "summary"})


class WorkerSeries:
    """What counts goes on where the last worker ended, and stays while the worker does not answer: Prometheus takes any
    decrease for a restart, and would count all that is left a second time. Gauges tell of the present worker alone."""

    def __init__(self) -> None:
        self._ended: list[Metric] = []  # the counts of all workers that ended
        self._last: list[Metric] = []  # what the present worker answered last

    def answered(self, series: Iterable[Metric]) -> list[Metric]:
        """All series, with the worker's answer of now."""
        self._last = [*series]
        return [*self._ended, *self._last]

    def unanswered(self) -> list[Metric]:
        """The counts alone, as they were."""
        return [*self._ended, *_counts(self._last)]

    def worker_ended(self) -> None:
        self._ended = [*merged(self._ended, _counts(self._last)).collect()]
        self._last = []


def _counts(series: Iterable[Metric]) -> list[Metric]:
    return [metric for metric in series if metric.type in COUNTING]

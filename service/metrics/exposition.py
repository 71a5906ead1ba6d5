"""Metrics as text: those of several processes as those of one, in the format that the scraper asks for."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.registry import Collector

COMBINED: dict[str, Callable[[float, float], float]] = {"_start_time_seconds": min, "_max_fds": max, "_info": max}
"""By the end of a sample's name; all others are added up, memory, processor time and open files too."""

CREATED = "_created"
"""Samples of these names tell when a series began. Left out: Prometheus would store each as one more series."""


def exposition(*processes: Iterable[Metric]) -> bytes:
    """Prometheus' text format of what the registries of these processes collect."""
    return generate_latest(merged(*processes))


def negotiated(accept: str | None, *processes: Iterable[Metric]) -> tuple[bytes, str]:
    """As `exposition`, in OpenMetrics if the Accept header asks for it; and the content type."""
    collected = [[*process] for process in processes]
    try:
        encode, content_type = choose_encoder(accept or "")
        return encode(merged(*collected)), content_type
    except TypeError:  # the header asks for a version that is no number
        return exposition(*collected), CONTENT_TYPE_PLAIN_0_0_4


def merged(*processes: Iterable[Metric]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Merged(processes))
    return registry


class _Merged(Collector):
    def __init__(self, processes: Iterable[Iterable[Metric]]) -> None:
        self._processes = processes

    def collect(self) -> Iterator[Metric]:
        families: dict[str, tuple[Metric, dict[tuple[str, tuple[tuple[str, str], ...]], float]]] = {}
        for process in self._processes:
            for metric in process:
                _, values = families.setdefault(metric.name, (metric, {}))
                for sample in metric.samples:
                    if sample.name.endswith(CREATED):
                        continue
                    key = sample.name, tuple(sorted(sample.labels.items()))
                    values[key] = _combine(sample.name)(values[key], sample.value) if key in values else sample.value
        for metric, values in families.values():
            merged = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            for (name, labels), value in values.items():
                merged.add_sample(name, dict(labels), value)
            yield merged


def _combine(name: str) -> Callable[[float, float], float]:
    for end, combine in COMBINED.items():
        if name.endswith(end):
            return combine
    return operator.add

"""The state that all processes share: the queue, the worker cards and the blob store, as Redis holds them.

Each replica of the API reads it at each scrape and exports the same numbers. All of these series begin with
`arpg_queue_`, so that one rule holds for the prefix: aggregate them with `max`, never with `sum`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedState:
    """The first four by model. waiting, running: jobs. oldest: seconds that the oldest waiting job has waited; 0 where
    none waits. workers: that are alive. blobs: bytes by kind (`uploads`, `pictures`); blob_limit: of both together."""

    waiting: Mapping[str, int]
    running: Mapping[str, int]
    oldest: Mapping[str, float]
    workers: Mapping[str, int]
    blobs: Mapping[str, int]
    blob_limit: int

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield _gauge("depth", "Jobs waiting to be claimed", "model", self.waiting)
        yield _gauge("running", "Jobs leased to workers", "model", self.running)
        yield _gauge("oldest_job_seconds", "How long the oldest waiting job has waited; 0: none", "model", self.oldest)
        yield _gauge("workers", "Workers alive", "model", self.workers)
        yield _gauge("blob_bytes", "Stored uploads and pictures", "kind", self.blobs)
        yield _gauge("blob_limit_bytes", "What uploads and pictures may take together", None, {"": self.blob_limit})


def _gauge(name: str, text: str, label: str | None, values: Mapping[str, float]) -> GaugeMetricFamily:
    help = f"{text} (each replica of the API tells the same: use max, not sum)"
    family = GaugeMetricFamily(f"arpg_queue_{name}", help, labels=[label] if label else [])
    for value, number in values.items():
        family.add_metric([value] if label else [], number)
    return family

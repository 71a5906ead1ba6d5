"""All Prometheus series.

Labels have few, fixed values (model, task, outcome, code; route templates for HTTP), so that no client can create
series. Where vLLM has a series of the same meaning, the name after `arpg_` is vLLM's.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

# vLLM's, for its first token: from a demo picture on a GPU, tens of milliseconds, to a wait in a long queue.
_LATENCY = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_STEP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_HTTP = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

OUTCOMES = ("succeeded", "failed", "canceled", "queue_full", "storage_full", "no_worker")
"""The ends of a job; and of requests that the API had to refuse, the reasons."""

FAILURES = (
    "engine_failed", "expired_waiting", "internal_error", "invalid_payload", "invalid_request", "not_finite",
    "out_of_memory", "start_timeout", "storage_full", "unsupported_job_version", "upload_damaged", "upload_missing",
    "worker_lost",
)  # fmt: skip
"""The codes of failed jobs that are exported from the start; others appear once they happen."""

WEBHOOK_OUTCOMES = ("delivered", "retried", "failed")

UNKNOWN = "unknown"


class Metrics:
    """The series of one process.

    The API and the worker use the same class; series that a process never changes stay at zero.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._models: set[str] = set()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"arpg_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"arpg_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"arpg_{name}", text, labels, buckets=buckets, registry=registry)

        build = Info("arpg_build", "The version of the service", registry=registry)
        build.info({"version": _version(), "python": platform.python_version()})
        self.model_info = Info("arpg_model", "What a worker serves", ["model"], registry=registry)

        # A job, from its acceptance to its end.
        self.requests = counter("requests_total", "Requests by outcome", "model", "task", "outcome")
        self.job_failures = counter(
            "job_failures_total", "Jobs that failed, by the code of their error", "model", "code"
        )
        self.lease_takeovers = counter(
            "lease_takeovers_total", "Jobs taken from a worker that did not renew its lease", "model"
        )
        self.webhooks = counter(
            "webhooks_total", "Webhook calls that delivered, that will be repeated, and webhooks given up", "outcome"
        )
        for outcome in WEBHOOK_OUTCOMES:
            self.webhooks.labels(outcome)
        self.request_queue_time_seconds = histogram(
            "request_queue_time_seconds", "From acceptance to a worker's claim", _LATENCY, "model"
        )
        self.time_to_first_token_seconds = histogram(
            "time_to_first_token_seconds", "From acceptance to the first tokens", _LATENCY, "model"
        )
        self.e2e_request_latency_seconds = histogram(
            "e2e_request_latency_seconds", "From acceptance to the finished pictures", _LATENCY, "model", "task"
        )
        self.images = counter("images_total", "Pictures finished", "model")
        self.pictures_evicted = counter(
            "pictures_evicted_total",
            "Pictures of ended jobs deleted before their time, because the blob store was full",
        )
        self.generation_tokens = counter("generation_tokens_total", "Tokens drawn", "model")

        # The engine's step loop.
        self.step_seconds = histogram("step_seconds", "Duration of one forward step", _STEP, "model")
        self.step_rows = histogram("step_rows", "Rows packed into one forward step", _ROWS, "model")
        self.rows = counter("rows_total", "Rows computed", "model")
        self.num_requests_running = gauge("num_requests_running", "Pictures being drawn", "model")
        self.num_requests_waiting = gauge("num_requests_waiting", "Pictures admitted, waiting for pages", "model")
        self.step_limit = gauge(
            "step_limit",
            "1: the pages, the rows, the running sequences or the places for texts kept a picture out of a step",
            "model",
            "cap",
        )
        self.kv_cache_usage = gauge("kv_cache_usage_perc", "Share of the KV cache in use; 1 is all of it", "model")
        self.kv_pages_used = gauge("kv_pages_used", "Pages of the KV cache in use", "model")
        self.kv_pages = gauge("kv_pages", "Pages of the KV cache", "model")
        self.kv_cache_bytes = gauge("kv_cache_bytes", "Memory of the KV cache, used or not", "model")
        self.kv_rows_shared = counter(
            "kv_rows_shared_total",
            "Rows of the KV cache reused from another picture",
            "model",
        )
        self.kv_pages_copied = counter("kv_pages_copied_total", "Pages copied where a shared prefix ends", "model")
        self.worker_memory = gauge(
            "worker_memory_bytes", "Resident memory of the worker (cpu); memory of its tensors on GPUs (cuda)", "device"
        )

        # HTTP, by route template. A duration ends at the response's first byte, since a stream may last for minutes.
        self.http_requests = counter("http_requests_total", "HTTP responses", "method", "route", "status")
        self.http_request_seconds = histogram(
            "http_request_seconds", "From request to the response's first byte", _HTTP, "method", "route"
        )
        self.http_streams = gauge("http_streams", "Event streams open now")
        self.events_skipped = counter("events_skipped_total", "Entries of event streams that were no events")

    def know_model(self, model: str, tasks: Iterable[str]) -> None:
        """Exports the counts of a model's requests from 0 on. Otherwise a series would begin with its first event, at
        1, and `rate()` would miss it."""
        if model in self._models:
            return
        self._models.add(model)
        for task in tasks:
            for outcome in OUTCOMES:
                self.requests.labels(model, task, outcome)
        for code in FAILURES:
            self.job_failures.labels(model, code)

    def count_end(self, model: str | None, task: str | None, outcome: str, code: str | None = None) -> None:
        """A job ended, or the API refused a request. model and task: None, or a name that is served: a label is never a
        client's text. code: of the error of a failed job."""
        self.requests.labels(model or UNKNOWN, task or UNKNOWN, outcome).inc()
        if outcome == "failed":
            self.job_failures.labels(model or UNKNOWN, code or UNKNOWN).inc()


def _version() -> str:
    try:
        return version("arpg-serve")
    except PackageNotFoundError:  # run from a source folder
        return UNKNOWN

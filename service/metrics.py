"""All Prometheus series.

Labels have few, fixed values (model, task, outcome; route templates for HTTP), so that no client can create series.
"""

from __future__ import annotations

import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

# From a demo picture on a GPU, tens of milliseconds, to a wait in a long queue.
_LATENCY = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
_STEP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_HTTP = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


UNDRAWN = ("expired_waiting", "start_timeout", "unsupported_job_version")
"""Codes of the errors with which the queue ends jobs that no worker draws."""

WEBHOOK_OUTCOMES = ("delivered", "retried", "failed")


class Metrics:
    """The series of one process.

    The API and the worker use the same class; series that a process never changes stay at zero.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"arpg_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"arpg_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"arpg_{name}", text, labels, buckets=buckets, registry=registry)

        # A job, from its acceptance to its end. Outcomes: succeeded, failed, canceled; and for requests that the API
        # had to refuse: queue_full, storage_full, no_worker.
        self.requests = counter("requests_total", "Requests by outcome", "task", "outcome")
        self.jobs_undrawn = counter(
            "jobs_undrawn_total", "Jobs that failed because no worker drew them, by the code of their error", "code"
        )
        for code in UNDRAWN:
            self.jobs_undrawn.labels(code)
        self.webhooks = counter(
            "webhooks_total", "Webhook calls that delivered, that will be repeated, and webhooks given up", "outcome"
        )
        for outcome in WEBHOOK_OUTCOMES:
            self.webhooks.labels(outcome)
        self.request_queue_seconds = histogram(
            "request_queue_seconds", "From acceptance to a worker's claim", _LATENCY, "model"
        )
        self.time_to_first_preview_seconds = histogram(
            "time_to_first_preview_seconds", "From acceptance to the first tokens", _LATENCY, "model"
        )
        self.request_seconds = histogram(
            "request_seconds", "From acceptance to the finished pictures", _LATENCY, "model", "task"
        )
        self.images = counter("images_total", "Pictures finished", "model")
        self.pictures_evicted = counter(
            "pictures_evicted_total",
            "Pictures of ended jobs deleted before their time, because the blob store was full",
        )
        self.tokens = counter("tokens_total", "Tokens drawn", "model")

        # The engine's step loop.
        self.step_seconds = histogram("step_seconds", "Duration of one forward step", _STEP, "model")
        self.step_rows = histogram("step_rows", "Rows packed into one forward step", _ROWS, "model")
        self.requests_running = gauge("requests_running", "Pictures being drawn", "model")
        self.requests_waiting = gauge("requests_waiting", "Pictures admitted, waiting for pages", "model")
        self.step_limit = gauge(
            "step_limit", "1: the pages, the rows or the running sequences kept a picture out of a step", "model", "cap"
        )
        self.kv_pages_used = gauge("kv_pages_used", "Pages of the KV cache in use", "model")
        self.kv_rows_shared = counter(
            "kv_rows_shared_total",
            "Rows of the KV cache reused from another picture",
            "model",
        )
        self.kv_pages_copied = counter("kv_pages_copied_total", "Pages copied where a shared prefix ends", "model")
        self.rows = counter("rows_total", "Rows computed", "model")
        self.kv_pages_total = gauge("kv_pages_total", "Pages of the KV cache", "model")
        self.cuda_memory_bytes = gauge("cuda_memory_bytes", "GPU memory of all models' tensors")

        # The queue, read from Redis at every scrape.
        self.queue_depth = gauge("queue_depth", "Jobs waiting to be claimed", "model")

        # HTTP, by route template. A duration ends at the response's first byte, since a stream may last for minutes.
        self.http_requests = counter("http_requests_total", "HTTP responses", "method", "route", "status")
        self.http_request_seconds = histogram(
            "http_request_seconds", "From request to the response's first byte", _HTTP, "method", "route"
        )
        self.http_streams = gauge("http_streams", "Event streams open now")
        self.events_skipped = counter("events_skipped_total", "Entries of event streams that were no events")


def serve_metrics(metrics: Metrics, host: str, port: int) -> tuple[WSGIServer, threading.Thread]:
    """Serves `/metrics` from a thread, for a worker without the API. `server.shutdown()` ends it."""
    return start_http_server(port, addr=host, registry=metrics.registry)

"""The worker: an engine beside the queue."""

from service.worker.worker import Worker

__all__ = ["Worker"]

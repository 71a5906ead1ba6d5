"""The worker: engines beside the queue, one a model."""

from service.worker.worker import Worker

__all__ = ["Worker"]

"""Stopping a job, and counting it."""

from __future__ import annotations

from service.api.services import Services
from service.queue import FINAL_STATES, Job
from service.queue.contract import Canceled


async def cancel_job(services: Services, job: Job) -> Canceled:
    """Harmless when it has ended meanwhile."""
    said = await services.queue.cancel(job.id)
    if said == "canceled" and job.state not in FINAL_STATES:
        # It never reached a worker, or its worker is gone: nobody else counts it.
        services.metrics.requests.labels(job.payload["task"], "canceled").inc()
    return said

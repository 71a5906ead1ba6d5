"""Whether there is a place for a job: looked at before the work that a request makes, and told in one way."""

from __future__ import annotations

from service.api.services import Services
from service.keys import Client
from service.problems import Problem
from service.queue import BlobStoreFull, QueueFull, QuotaFull


async def check_room(services: Services, client: Client, model: str) -> None:
    """A look before pictures are decoded and stored; the queue itself is the judge, later. Raises Problem."""
    if client.quota is not None and await services.queue.unfinished(client.name) >= client.quota:
        raise no_room(services, QuotaFull(client.quota))
    waiting = await services.queue.depth(model)
    if waiting >= services.settings.max_queued:
        raise no_room(services, QueueFull(f"{waiting} jobs wait for {model} already"))


def no_room(services: Services, full: QuotaFull | QueueFull | BlobStoreFull) -> Problem:
    headers = {"Retry-After": str(services.settings.retry_after)}
    if isinstance(full, QuotaFull):
        return Problem(429, "quota_exceeded", f"{full}: wait until some of them are done", headers=headers)
    code = "queue_full" if isinstance(full, QueueFull) else "storage_full"
    return Problem(503, code, f"there is no room at the moment: {full}", headers=headers)

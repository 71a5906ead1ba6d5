"""What the routes share: their FastAPI dependencies, the choice of a model, threads for work on pictures.

FastAPI runs each dependency that is not async in a thread, which costs more than the dependency does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import anyio.to_thread
from fastapi import Depends, Request

from service.auth.keys import Client
from service.errors import Problem
from service.jobs.catalogue import ServedModel
from service.services import Services
from service.tasks.pictures.errors import ImageError
from service.tasks.planning import check_task

Result = TypeVar("Result")


async def _services(request: Request) -> Services:
    services: Services = request.state.services
    return services


async def _optional_client(request: Request) -> Client | None:
    client: Client | None = request.state.client
    return client


async def _client(request: Request) -> Client:
    client: Client = request.state.client
    return client


ServicesDep = Annotated[Services, Depends(_services)]
ClientDep = Annotated[Client, Depends(_client)]

OptionalClientDep = Annotated[Client | None, Depends(_optional_client)]
"""For the routes that need no key. None: keys are needed elsewhere, and the request has none."""


async def choose_model(services: Services, name: str | None, task: str) -> ServedModel:
    """The model that a request names, or the only one. Raises Problem, also if the model can't do the task."""
    served = await services.catalogue.choose(name)
    check_task(task, served.card)
    return served


async def in_thread(services: Services, work: Callable[..., Result], *arguments: Any) -> Result:
    """Runs work on pixels in one of a few threads, off the event loop. An unusable picture becomes a Problem."""
    try:
        return await anyio.to_thread.run_sync(work, *arguments, limiter=services.pixels)
    except ImageError as error:
        raise Problem.field(error.field, error.message, error.code, status=error.status) from None

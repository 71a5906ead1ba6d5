"""What the routes share: their FastAPI dependencies, the choice of a model, threads for work on pictures.

FastAPI runs each dependency that is not async in a thread, which costs more than the dependency does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

import anyio.to_thread
from fastapi import Depends, Request

from service import logs
from service.api.problems import gone
from service.auth.keys import Client
from service.jobs import cancelled
from service.jobs.catalogue import ServedModel
from service.services import Services
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
    logs.tell(model=served.card.name)
    check_task(task, served.card)
    return served


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` returns. It is cancelled as soon as the client disconnects. Only after the body was read.
    Raises Problem then, which nobody receives."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise gone()
        return task.result()
    finally:
        await cancelled(task, left)
        del task  # it refers to its error, whose traceback refers to this frame, and so to the whole request


async def disconnected(request: Request) -> None:
    """Returns when the client has disconnected. Only after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def in_thread(
    services: Services, request: Request, client: str, work: Callable[..., Result], *arguments: Any
) -> Result:
    """Codes a picture in one of a few threads, off the event loop; each client has its turn. Who disconnects before it
    leaves the line."""

    async def run() -> Result:
        async with services.transcoding.place(client):
            return await anyio.to_thread.run_sync(work, *arguments)

    return await while_connected(request, run())

"""What the worker repeats, and what it gives up. A finished picture without room waits: its job neither fails nor
loses its worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError, OutOfMemoryError, ReadOnlyError, ResponseError

from service.jobs import BlobConfig, Claims, QueueConfig
from service.jobs.result import JobResult
from service.worker import picture
from service.worker import retry as outages
from service.worker.claiming import Claimer, Quarantine
from service.worker.retry import retry_transient
from tests.support.waiting import soon
from tests.support.worker import Service, alone

OUTAGES = [
    ConnectionError("refused"),
    OSError("no route"),
    OutOfMemoryError("command not allowed"),
    ReadOnlyError("a replica"),
    ResponseError("BUSY Redis is busy running a script"),
    ResponseError("MISCONF the disk is full"),
]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "RETRY_SECONDS", 0)
    monkeypatch.setattr(picture, "RETRY_SECONDS", 0.05)


class Server:
    """Raises these, one a call, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def call(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.mark.anyio
async def test_what_passes_is_waited_for() -> None:
    assert await retry_transient("telling", Server(*OUTAGES).call) == "done"


@pytest.mark.anyio
async def test_an_outage_is_a_few_lines_however_often_the_call_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert await retry_transient("telling", Server(*(OSError("no route") for _ in range(50))).call) == "done"
    first, *_, last = caplog.messages
    assert (first, last) == ("telling: no route; trying again", "telling: done after 0 s")
    assert len(caplog.messages) < 8

    claims = Claims([], become_empty=False, ended=(), taken_over=0)
    server = Server(*(ConnectionError("refused") for _ in range(50)))

    async def claim(*_: object, **__: object) -> Claims:
        await server.call()
        return claims

    queue: Any = SimpleNamespace(config=QueueConfig(lease_seconds=0.001), claim=claim)
    caplog.clear()
    claimer = Claimer(queue, "random", "worker", Quarantine(), 1)
    stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    assert await claimer.ask(stopping, budget=1, alone=True, held={}) is claims
    first, *_, last = caplog.messages
    assert first == "claiming for random: refused; trying again"
    assert last.startswith("claiming for random: redis answers after ")
    assert len(caplog.messages) < 8


@pytest.mark.anyio
async def test_what_the_server_will_always_answer_is_not_asked_again() -> None:
    server = Server(ResponseError("ERR The ID specified in XADD is equal or smaller"), OSError())
    with pytest.raises(ResponseError, match="XADD"):
        await retry_transient("telling", server.call)
    assert len(server.errors) == 1


FIELDS: dict[str, Any] = {"n": 2, "steps": 8, "seed": 3}


@pytest.fixture
async def memory(redis: Redis) -> AsyncIterator[Redis]:
    """For tests that fill the server, which others use after them."""
    yield redis
    await redis.config_set("maxmemory", 0)


async def refused(caplog: pytest.LogCaptureFixture, times: int) -> None:
    assert await soon(lambda: sum("waits for room" in line for line in caplog.messages) >= times)


async def right(service: Service, folder: Path, result: JobResult) -> None:
    for image, expected in zip(result.images, alone(folder, **FIELDS), strict=True):
        assert np.array_equal(image.tokens(), expected)
        assert image.blob.split("/")[2] == "1"
        assert await service.blobs.get(image.blob)


@pytest.mark.anyio
async def test_at_maxmemory_a_picture_waits_and_its_lease_is_renewed(
    service: Service, memory: Redis, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, tries = service.blobs.put, count()

    async def full_by_then(*arguments: Any, **more: Any) -> bool:
        if next(tries) == 0:
            await memory.config_set("maxmemory", 1)
        return await put(*arguments, **more)

    monkeypatch.setattr(service.blobs, "put", full_by_then)
    await service.submit("a", **FIELDS)
    await refused(caplog, 2)
    await asyncio.sleep(service.queue.config.lease_seconds + 0.3)
    await memory.config_set("maxmemory", 0)
    await right(service, folder, await service.result("a"))


@pytest.mark.anyio
async def test_a_full_blob_store_is_waited_for(
    service: Service, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service.blobs.limits = BlobConfig(max_bytes=4000, uploads_share=1)
    await service.blobs.put("other", bytes(4000))
    await service.submit("a", **FIELDS)
    await refused(caplog, 4)
    await service.blobs.delete("other")
    await right(service, folder, await service.result("a"))


@pytest.mark.anyio
async def test_a_waiting_job_can_be_cancelled(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.blobs.limits = BlobConfig(max_bytes=4000, uploads_share=1)
    await service.blobs.put("other", bytes(4000))
    await service.submit("a", **FIELDS)
    await refused(caplog, 2)
    assert await service.queue.cancel("a") == "requested"
    assert (await service.events("a"))[-1].name == "canceled"


@pytest.mark.anyio
async def test_a_picture_that_never_fits_fails_its_job_at_once(service: Service) -> None:
    service.blobs.limits = BlobConfig(max_bytes=10)
    await service.submit("a", **FIELDS)
    [*_, last] = await service.events("a")
    assert (last.name, last.json()["error"]["code"]) == ("failed", "storage_full")

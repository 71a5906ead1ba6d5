"""What the worker repeats, and what it gives up."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError, OutOfMemoryError, ReadOnlyError, ResponseError

from service.worker import retry as outages
from service.worker.retry import retry_transient

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
async def test_what_the_server_will_always_answer_is_not_asked_again() -> None:
    server = Server(ResponseError("ERR The ID specified in XADD is equal or smaller"), OSError())
    with pytest.raises(ResponseError, match="XADD"):
        await retry_transient("telling", server.call)
    assert len(server.errors) == 1

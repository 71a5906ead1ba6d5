"""How much memory the bodies of all requests may take, and which make room."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from service.server.body_limits import BODIES_HELD
from service.settings import Settings
from tests.support.api import Api, noise, png, running_api
from tests.support.waiting import PATIENCE, eventually

LARGEST = 2**16
BODY = b'{"model": "hand", "image": "%b"}' % (b"A" * (LARGEST - 100))


@pytest.fixture(scope="module")
def small_server(redis_socket: Path) -> Iterator[Api]:
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace="small", max_body_bytes=LARGEST, heartbeat=0.2, _env_file=None
    )
    with running_api(settings) as api:
        api.show_card()
        yield api


@pytest.fixture
def small(small_server: Api) -> Iterator[Api]:
    yield small_server
    small_server.empty()


def begun(api: Api, stack: ExitStack, body: bytes, *, kind: str = "application/json", more: int = 0) -> socket.socket:
    """A connection that has sent a request with this body, except the last `more` bytes."""
    connection = socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), timeout=PATIENCE)
    stack.enter_context(connection)
    head = f"POST /v1/vary HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=60\r\nContent-Type: {kind}\r\n"
    connection.sendall(f"{head}Content-Length: {len(body) + more}\r\n\r\n".encode() + body)
    return connection


def answer(connection: socket.socket) -> bytes:
    said = b""
    while not said.endswith(b"}") and (part := connection.recv(65536)):
        said += part
    return said


def held(api: Api) -> int:
    """The bytes of all bodies that the server holds."""
    app: Any = api.app.middleware_stack
    while not hasattr(app, "_held"):
        app = app.app
    held: set[Any] = app._held
    return sum(one.size for one in held)


def test_half_sent_bodies_make_room_for_one_that_arrives(small: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.server.body_limits.SLACK", 0.1)
    with ExitStack() as stack:
        slow = [begun(small, stack, BODY[:-1], more=1) for _ in range(BODIES_HELD)]
        assert eventually(lambda: held(small) == BODIES_HELD * (len(BODY) - 1))
        # It is read when the others are late: 415, because it is no picture.
        assert eventually(lambda: answer(begun(small, stack, BODY)).startswith(b"HTTP/1.1 415"))
        evicted = answer(slow[0])
        assert evicted.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in evicted.lower()
        slow[-1].sendall(BODY[-1:])
        assert answer(slow[-1]).startswith(b"HTTP/1.1 415"), "no more than needed make room"
    assert eventually(lambda: held(small) == 0)


def test_without_room_a_body_is_refused_until_there_is(small: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.server.body_limits.SLACK", PATIENCE)  # nobody is late
    monkeypatch.setattr("service.server.body_limits.RATE", 1)
    with ExitStack() as stack:
        others = [begun(small, stack, BODY[:-1], more=1) for _ in range(BODIES_HELD)]
        assert eventually(lambda: held(small) == BODIES_HELD * (len(BODY) - 1))
        refused = answer(begun(small, stack, BODY))
        assert refused.startswith(b"HTTP/1.1 503")
        assert b'"code":"too_many_uploads"' in refused
        assert b"retry-after: " in refused.lower()
        others[0].close()
        assert eventually(lambda: held(small) < BODIES_HELD * (len(BODY) - 1))
        assert answer(begun(small, stack, BODY)).startswith(b"HTTP/1.1 415")
    assert eventually(lambda: held(small) == 0)


def test_a_body_takes_no_room_while_its_client_waits_for_the_picture(small: Api) -> None:
    picture = png(noise(140, 140))
    part = b'--B\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n%b\r\n--B--\r\n' % picture
    assert BODIES_HELD * LARGEST < (BODIES_HELD + 2) * len(part) < (BODIES_HELD + 2) * LARGEST
    with ExitStack() as stack:
        for count in range(1, BODIES_HELD + 3):
            begun(small, stack, part, kind="multipart/form-data; boundary=B")
            assert eventually(lambda: small.queue(lambda q, _, __: q.depth("hand")) == count)  # noqa: B023
        assert held(small) == 0

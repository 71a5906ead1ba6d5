"""The limit of connections, and the timeouts of request heads and bodies."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from service.server.app import create_app
from service.server.http_server import HTTPServer, http_server
from service.settings import Settings
from tests.support.api import Api, frames, running_api
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture(scope="module")
def hasty(redis_socket: Path) -> Iterator[Api]:
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace="impatient", header_timeout=0.5, body_timeout=0.5, keep_alive=2,
        heartbeat=0.2, _env_file=None,
    )  # fmt: skip
    with running_api(settings) as api:
        api.client.headers["Connection"] = "close"  # idle connections are closed soon here
        api.show_card()
        yield api


@pytest.fixture
def impatient(hasty: Api) -> Iterator[Api]:
    yield hasty
    hasty.empty()


@pytest.fixture
def crowded(redis_socket: Path) -> Iterator[Api]:
    """A server that accepts ten connections."""
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace="crowded", max_connections=10, heartbeat=0.2, header_timeout=60,
        _env_file=None,
    )  # fmt: skip
    with running_api(settings) as api:
        api.show_card()
        yield api
        api.empty()


def connect(api: Api) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), timeout=PATIENCE)


def closed(connection: socket.socket, seconds: float = PATIENCE) -> bool:
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_idle_connections_are_closed_for_new_ones_and_busy_ones_stay(crowded: Api) -> None:
    job = crowded.generate()
    with crowded.client.stream("GET", job["urls"]["events"]) as stream, ExitStack() as stack:
        events = frames(stream.iter_lines())
        assert next(events)["event"] == "queued"
        regular = stack.enter_context(httpx.Client(base_url=crowded.url))
        assert regular.get("/healthz").status_code == 200
        idle = []
        for _ in range(30):
            idle.append(stack.enter_context(connect(crowded)))
            # Its connection has sent a request, so the others are closed first.
            assert regular.get("/healthz").status_code == 200
        assert all(closed(one) for one in idle[:20])  # the oldest first
        assert not closed(idle[-1], 0.2)
        assert httpx.get(f"{crowded.url}/healthz").status_code == 200  # a new connection is accepted
        assert next(events)["event"] == "heartbeat"


def test_a_new_connection_is_rejected_when_all_are_busy(crowded: Api) -> None:
    job = crowded.generate()
    request = f"GET {job['urls']['events']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    crowded.client.close()
    with ExitStack() as stack:
        busy = [stack.enter_context(connect(crowded)) for _ in range(10)]
        for one in busy:
            one.sendall(request)
            assert one.recv(4096).startswith(b"HTTP/1.1 200")
        with connect(crowded) as late:
            assert closed(late)
        assert not any(closed(one, 0.5) for one in busy)  # a heartbeat has come

    def served() -> bool:
        try:
            return httpx.get(f"{crowded.url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    assert eventually(served), "closed connections still count"


# ---- slow bodies ---------------------------------------------------------------------------------------------------


def half_sent(body: bytes = b"{", length: int = 10**6) -> bytes:
    head = "POST /v1/vary HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode() + body


def serves(api: Api) -> bool:
    with connect(api) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return answered(connection)


def test_half_sent_bodies_make_room_for_new_connections(crowded: Api) -> None:
    job = crowded.generate()
    with crowded.client.stream("GET", job["urls"]["events"]) as stream, ExitStack() as stack:
        events = frames(stream.iter_lines())
        assert next(events)["event"] == "queued"
        slow = []
        for _ in range(30):
            slow.append(stack.enter_context(connect(crowded)))
            slow[-1].sendall(half_sent())
            assert serves(crowded)
        assert all(closed(one) for one in slow[:20])  # the oldest first
        assert not closed(slow[-1], 0.2)
        assert next(events)["event"] == "heartbeat"


def test_a_body_that_arrives_is_kept_and_a_trickling_one_is_not(crowded: Api) -> None:
    """A byte now and then is no progress; nor is a body that arrives after its response."""
    body = b'{"model": "hand", "image": "%b"}' % (b"A" * 2**20)
    answered_early = b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as stack:
        regular = stack.enter_context(connect(crowded))
        regular.sendall(request)
        assert answered(regular)
        upload = stack.enter_context(connect(crowded))
        upload.sendall(half_sent(body[: 2**16], len(body)))
        trickling = [stack.enter_context(connect(crowded)) for _ in range(7)]  # with the fixture's own: ten
        for one in trickling[:3]:
            one.sendall(half_sent())
        for one in trickling[3:]:
            one.sendall(answered_early)
            assert one.recv(65536).startswith(b"HTTP/1.1 404")
        newcomers = []
        for start in range(2**16, len(body), 2**17):
            upload.sendall(body[start : start + 2**17])
            for one in trickling:
                with contextlib.suppress(OSError):
                    one.sendall(b"x")
            newcomers.append(stack.enter_context(connect(crowded)))
            newcomers[-1].sendall(request)
            assert answered(newcomers[-1])
        assert upload.recv(4096).startswith(b"HTTP/1.1 415")  # it was read: this is no picture
        regular.sendall(request)
        assert answered(regular)


def test_a_body_that_goes_on_after_its_response_is_cut_off(impatient: Api) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nx")
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")
        assert closed_after(connection, b"x") < PATIENCE


# ---- timeouts ------------------------------------------------------------------------------------------------------


def closed_after(connection: socket.socket, trickle: bytes) -> float:
    """Seconds until the server closes the connection, while a byte arrives now and then."""
    began = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() - began < PATIENCE:
        try:
            connection.sendall(trickle)
            if connection.recv(4096) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


@pytest.mark.parametrize(
    "start", [b"", b"GET /healthz HTTP/1.1\r\nX: ", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /"]
)
def test_an_endless_request_head_closes_the_connection(impatient: Api, start: bytes) -> None:
    with connect(impatient) as connection:
        connection.sendall(start)
        assert closed_after(connection, b"" if not start else b"x") < PATIENCE
    assert httpx.get(f"{impatient.url}/healthz").status_code == 200


def answered(connection: socket.socket) -> bool:
    said = b""
    while not said.endswith(b"}"):
        part = connection.recv(4096)
        assert part, "the server closed the connection"
        said += part
    return said.startswith(b"HTTP/1.1 200")


def test_an_idle_connection_may_wait_longer_than_a_head_may_take(redis_socket: Path) -> None:
    """So the client closes it; otherwise a request could arrive as the server closes the connection."""
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="kept", header_timeout=2, _env_file=None)
    first_half, second_half = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"\r\n"
    with running_api(settings) as api, ExitStack() as stack:
        connections = [stack.enter_context(connect(api)) for _ in range(12)]
        for connection in connections:
            connection.sendall(first_half + second_half)
            assert answered(connection)
        time.sleep(3)  # longer than a head may take
        for tick in range(14):  # some head is incomplete at every moment, also when the server checks
            if tick < 12:
                connections[tick].sendall(first_half)
            if tick >= 2:
                connections[tick - 2].sendall(second_half)
            time.sleep(0.1)
        assert all(answered(connection) for connection in connections)


def test_an_idle_connection_is_closed_after_keep_alive(impatient: Api) -> None:
    settings = impatient.settings
    with connect(impatient) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answered(connection)
        began = time.monotonic()
        assert closed(connection)
        assert time.monotonic() - began > settings.keep_alive - 0.5
    assert http_server(create_app(settings), settings).config.timeout_keep_alive == settings.keep_alive


def test_a_head_that_arrives_during_a_stall_is_read(impatient: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    on_tick, still = HTTPServer.on_tick, threading.Event()

    async def standing_still(server: HTTPServer, counter: int) -> bool:
        there = {one.transport.get_extra_info("peername") for one in server.server_state.connections}
        if connection.getsockname() in there and not still.is_set():
            still.set()
            time.sleep(2)  # noqa: ASYNC251 — four times what a head may take
            counter = 0  # the check for slow heads runs before anything is read
        return await on_tick(server, counter)

    monkeypatch.setattr("service.server.http_server.STALL_SECONDS", 1.5)
    with connect(impatient) as connection:
        monkeypatch.setattr(HTTPServer, "on_tick", standing_still)
        assert still.wait(PATIENCE)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answered(connection)


@pytest.mark.parametrize(
    ("path", "kind"), [("generate", "application/json"), ("inpaint", "multipart/form-data; boundary=x")]
)
def test_an_endless_body_is_a_408(impatient: Api, path: str, kind: str) -> None:
    head = f"POST /v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    with connect(impatient) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n--x".encode())
        said = b""
        while part := connection.recv(4096):  # until the server closes it
            said += part
    assert said.startswith(b"HTTP/1.1 408")
    assert b'"code":"too_slow"' in said
    assert b"connection: close" in said.lower()


def test_a_stream_outlives_the_timeouts_of_heads_and_bodies(impatient: Api) -> None:
    with impatient.client.stream("POST", "/v1/generate", json={}, headers={"Accept": "text/event-stream"}) as response:
        events, began = frames(response.iter_lines()), time.monotonic()
        assert next(events)["event"] == "queued"
        while time.monotonic() - began < 2.5:
            assert next(events)["event"] == "heartbeat"

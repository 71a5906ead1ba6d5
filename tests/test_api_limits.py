"""How much a client may ask, and how slowly: rates, quotas, open requests, bodies and heads that never end."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_harness import Api, frames, noise, png, running_api
from keys_harness import new_key

from service.app import create_app
from service.http_server import http_server
from service.settings import Settings

LIMITS: dict[str, dict[str, Any]] = {
    "ann": {"rate": 0},
    "fast": {"rate": 5},
    "few": {"quota": 2, "rate": 0},
    "plain": {},
}


@pytest.fixture(scope="module")
def limited(redis_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, dict[str, str]]]:
    path = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    texts = {name: new_key(path, name, **limits) for name, limits in LIMITS.items()}
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace="limited", keys_file=path, client_requests=2, header_timeout=0.5,
        body_timeout=0.5, keep_alive=4, heartbeat=0.2, _env_file=None,
    )  # fmt: skip
    with running_api(settings, texts["ann"]) as api:
        api.client.headers["Connection"] = "close"  # one that is idle is hung up on, here soon
        api.show_card()
        yield api, texts


@pytest.fixture
def keyed(limited: tuple[Api, dict[str, str]]) -> Iterator[tuple[Api, dict[str, str]]]:
    yield limited
    limited[0].empty()


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


# ---- rates ---------------------------------------------------------------------------------------------------------


def test_a_rate_is_told_and_when_it_is_used_up_the_client_hears_for_how_long(
    keyed: tuple[Api, dict[str, str]],
) -> None:
    api, texts = keyed
    answers = [httpx.get(f"{api.url}/v1/models", headers=bearer(texts["fast"])) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert [answer.headers["ratelimit"].partition(";t=")[0] for answer in answers[:5]] == [
        f'"requests";r={left}' for left in (4, 3, 2, 1, 0)
    ]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests";q=5;w=60'}
    refused = answers[-1]
    assert refused.json()["code"] == "rate_limited"
    assert refused.headers["content-type"] == "application/problem+json"
    assert 10 <= int(refused.headers["retry-after"]) <= 12
    # Everybody else is as before, and what is open stays open.
    assert httpx.get(f"{api.url}/v1/models", headers=bearer(texts["plain"])).status_code == 200
    assert httpx.get(f"{api.url}/healthz", headers=bearer(texts["fast"])).status_code == 200


def test_a_key_without_a_rate_has_the_usual_one_and_0_is_none(keyed: tuple[Api, dict[str, str]]) -> None:
    api, texts = keyed
    plain = httpx.get(f"{api.url}/v1/models", headers=bearer(texts["plain"]))
    assert plain.headers["ratelimit-policy"] == '"requests";q=600;w=60'
    assert "ratelimit" not in api.client.get("/v1/models").headers


def test_without_keys_a_rate_is_an_addresss_and_off_unless_asked_for(redis_socket: Path, api: Api) -> None:
    assert "ratelimit" not in api.client.get("/v1/models").headers
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="by-address", rate=2, _env_file=None)
    with running_api(settings) as other:
        assert [other.client.get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]
        elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=elsewhere, base_url=other.url) as far:
            assert far.get("/v1/models").status_code == 200


# ---- quotas --------------------------------------------------------------------------------------------------------


def test_a_quota_counts_what_waits_and_runs_and_gives_back_what_ended(keyed: tuple[Api, dict[str, str]]) -> None:
    api, texts = keyed
    headers = bearer(texts["few"])

    def ask() -> httpx.Response:
        return httpx.post(f"{api.url}/v1/generate", headers=headers, json={})

    assert [ask().status_code for _ in range(2)] == [202, 202]
    refused = ask()
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    assert refused.headers["retry-after"].isdigit()
    claim = api.claim()
    assert ask().status_code == 429  # one runs, one waits
    assert api.client.post("/v1/generate", json={}).status_code == 202  # another client
    api.draw(claim)
    assert ask().status_code == 202


def test_a_refused_job_leaves_its_uploads_nowhere(keyed: tuple[Api, dict[str, str]]) -> None:
    api, texts = keyed
    files = {"image": png(noise(16, 16))}

    def ask() -> int:
        return httpx.post(f"{api.url}/v1/vary", headers=bearer(texts["few"]), files=files).status_code

    assert [ask(), ask()] == [202, 202]
    before = api.queue(lambda _, __, blobs: blobs.bytes_used())
    assert ask() == 429
    assert api.queue(lambda _, __, blobs: blobs.bytes_used()) == before


def test_without_a_place_for_the_job_its_pictures_are_not_even_looked_at(
    redis_socket: Path, keyed: tuple[Api, dict[str, str]]
) -> None:
    api, texts = keyed
    headers, broken = bearer(texts["few"]), {"image": b"no picture"}
    assert httpx.post(f"{api.url}/v1/vary", headers=headers, files=broken).status_code == 415
    for _ in range(2):
        assert httpx.post(f"{api.url}/v1/generate", headers=headers, json={}).status_code == 202
    refused = httpx.post(f"{api.url}/v1/vary", headers=headers, files=broken)
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    assert refused.headers["retry-after"].isdigit()
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="narrow", max_queued=1, _env_file=None)
    with running_api(settings) as narrow:
        narrow.show_card()
        narrow.generate()
        refused = narrow.client.post("/v1/outpaint", data={"left": "8"}, files=broken)
        assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
        assert refused.headers["retry-after"].isdigit()
        narrow.empty()


# ---- open requests -------------------------------------------------------------------------------------------------


def test_a_client_has_so_many_requests_open_and_no_more(keyed: tuple[Api, dict[str, str]]) -> None:
    api, texts = keyed
    headers = bearer(texts["plain"])
    with httpx.Client(base_url=api.url, headers=headers, timeout=10) as client:
        job = client.post("/v1/generate", json={}).json()
        with client.stream("GET", job["urls"]["events"]) as one, client.stream("GET", job["urls"]["events"]) as two:
            held = [frames(stream.iter_lines()) for stream in (one, two)]
            for stream in held:
                next(stream)
            refused = client.get("/v1/models")
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_open")
            assert refused.headers["retry-after"] == "1"
            assert api.client.get("/v1/models").status_code == 200  # another client
        deadline = time.monotonic() + 5
        while client.get("/v1/models").status_code != 200:
            assert time.monotonic() < deadline, "what was closed still counts"
            time.sleep(0.05)


@pytest.fixture
def crowded(redis_socket: Path) -> Iterator[Api]:
    """It lets ten in at once."""
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace="crowded", max_connections=10, heartbeat=0.2, header_timeout=60,
        _env_file=None,
    )  # fmt: skip
    with running_api(settings) as api:
        api.show_card()
        yield api
        api.empty()


def connect(api: Api) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), timeout=10)


def hung_up(connection: socket.socket, seconds: float = 10) -> bool:
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_idle_strangers_make_room_for_who_comes_and_shut_nobody_out(crowded: Api) -> None:
    job = crowded.generate()
    with crowded.client.stream("GET", job["urls"]["events"]) as stream, ExitStack() as stack:
        events = frames(stream.iter_lines())
        assert next(events)["event"] == "queued"
        regular = stack.enter_context(httpx.Client(base_url=crowded.url))
        assert regular.get("/healthz").status_code == 200
        idle = []
        for _ in range(30):
            idle.append(stack.enter_context(connect(crowded)))
            # On the connection that it has: it asked, and they never did.
            assert regular.get("/healthz").status_code == 200
        assert all(hung_up(one) for one in idle[:20])  # the oldest first
        assert not hung_up(idle[-1], 0.2)
        assert httpx.get(f"{crowded.url}/healthz").status_code == 200  # who comes now is let in
        assert next(events)["event"] == "heartbeat"


def test_where_all_are_busy_the_newcomer_goes_and_nobody_else(crowded: Api) -> None:
    job = crowded.generate()
    request = f"GET {job['urls']['events']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    crowded.client.close()
    with ExitStack() as stack:
        busy = [stack.enter_context(connect(crowded)) for _ in range(10)]
        for one in busy:
            one.sendall(request)
            assert one.recv(4096).startswith(b"HTTP/1.1 200")
        with connect(crowded) as late:
            assert hung_up(late)
        assert not any(hung_up(one, 0.5) for one in busy)  # a heartbeat has come
    deadline = time.monotonic() + 10
    while True:
        try:
            assert httpx.get(f"{crowded.url}/healthz").status_code == 200
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline, "who left still counts"


# ---- slowness ------------------------------------------------------------------------------------------------------


def closed_after(connection: socket.socket, trickle: bytes) -> float:
    """Seconds until the server hangs up, while a byte comes now and then."""
    began = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() - began < 10:
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
def test_a_head_that_never_ends_is_hung_up_on(keyed: tuple[Api, dict[str, str]], start: bytes) -> None:
    api, _ = keyed
    with socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2]))) as connection:
        connection.sendall(start)
        assert closed_after(connection, b"" if not start else b"x") < 6
    assert httpx.get(f"{api.url}/healthz").status_code == 200


def answered(connection: socket.socket) -> bool:
    said = b""
    while not said.endswith(b"}"):
        part = connection.recv(4096)
        assert part, "it was hung up on"
        said += part
    return said.startswith(b"HTTP/1.1 200")


def test_between_two_requests_a_connection_has_longer_and_the_next_head_its_own_time(
    keyed: tuple[Api, dict[str, str]],
) -> None:
    """So that it is the client who hangs up: else a request may cross with our going away."""
    first_half, second_half = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"\r\n"
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(keyed[0])) for _ in range(10)]
        for connection in connections:
            connection.sendall(first_half + second_half)
            assert answered(connection)
        time.sleep(1.5)  # three times what a head may take
        for tick in range(14):  # there are halves of heads at every moment of more than a second: who looks then?
            if tick < 10:
                connections[tick].sendall(first_half)
            if tick >= 4:
                connections[tick - 4].sendall(second_half)
            time.sleep(0.1)
        assert all(answered(connection) for connection in connections)
        began = time.monotonic()
        assert connections[0].recv(4096) == b""
        assert time.monotonic() - began < 8
    settings = keyed[0].settings
    assert http_server(create_app(settings), settings).config.timeout_keep_alive == settings.keep_alive


@pytest.mark.parametrize(
    ("path", "kind"), [("generate", "application/json"), ("inpaint", "multipart/form-data; boundary=x")]
)
def test_a_body_that_never_ends_is_a_408(keyed: tuple[Api, dict[str, str]], path: str, kind: str) -> None:
    api, texts = keyed
    head = f"POST /v1/{path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {texts['ann']}\r\nContent-Type: {kind}\r\n"
    with socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), timeout=5) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n--x".encode())
        said = b""
        while part := connection.recv(4096):  # until it hangs up
            said += part
    assert said.startswith(b"HTTP/1.1 408")
    assert b'"code":"too_slow"' in said
    assert b"connection: close" in said.lower()


def test_a_stream_outlives_the_patience_with_bodies_and_heads(keyed: tuple[Api, dict[str, str]]) -> None:
    api, _ = keyed
    with api.client.stream("POST", "/v1/generate", json={}, headers={"Accept": "text/event-stream"}) as response:
        events, began = frames(response.iter_lines()), time.monotonic()
        assert next(events)["event"] == "queued"
        while time.monotonic() - began < 2.5:
            assert next(events)["event"] == "heartbeat"

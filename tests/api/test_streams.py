"""Streams that end before their job does: by age, by our fault, by the reader's; and what that means for the job."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message

from service.api import sse
from service.api.sse import EventStreamResponse, encode
from service.jobs import Claim, Event, EventHub, HubClosed, Lagged, Publication, Queue, WatchEnded
from service.jobs.messages import encode_event
from service.jobs.watch import Push, Watch
from service.metrics import Metrics
from service.settings import Settings
from tests.api.test_answers import meanwhile
from tests.support.api import Api, dechunked, frames, running_api, spec_of
from tests.support.queue import decoded
from tests.support.waiting import PATIENCE, eventually

STARTED = {"attempt": 1, "images": 1, "grid": [4, 4], "steps": 2, "known": 0}


@pytest.fixture
def brief(redis_socket: Path) -> Iterator[Api]:
    """Its streams live for a moment."""
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace="brief", stream_life=0.6, heartbeat=0.2, _env_file=None
    )  # fmt: skip
    with running_api(settings) as api:
        api.show_card()
        yield api
        api.empty()


def framed(event: Event) -> bytes:
    return encode(event.name, event.data, event.id)


def status(api: Api, id: str) -> str:
    return str(httpx.get(f"{api.url}/v1/jobs/{id}").json()["status"])


# ---- age -----------------------------------------------------------------------------------------------------------


def test_an_old_stream_asks_its_reader_to_come_back_and_nothing_is_lost(brief: Api) -> None:
    job = brief.generate()
    claim = brief.claim()
    brief.publish(claim, 1, "started", STARTED)
    began = time.monotonic()
    with brief.client.stream("GET", job["urls"]["events"]) as response:
        first = list(frames(response.iter_lines()))
    assert 0.5 < time.monotonic() - began < 15
    end = first[-1]
    assert (end["event"], "id" in end, end["data"]) == ("reconnect", False, {"reason": "stream_life", "seconds": 0.6})
    last = [event["id"] for event in first if "id" in event][-1]
    brief.finish(claim, 2, [*spec_of(claim).seeds])
    with brief.client.stream("GET", job["urls"]["events"], headers={"Last-Event-ID": last}) as response:
        rest = list(frames(response.iter_lines()))
    assert [event["event"] for event in first + rest if "id" in event] == ["queued", "started", "completed"]


def test_an_old_stream_of_a_post_does_not_count_as_its_reader_going_away(brief: Api) -> None:
    path = "/v1/generate?on_disconnect=cancel"
    with brief.client.stream("POST", path, json={}, headers={"Accept": "text/event-stream"}) as response:
        id = response.headers["x-job-id"]
        assert list(frames(response.iter_lines()))[-1]["event"] == "reconnect"
    brief.client.close()
    assert eventually(lambda: "arpg_http_streams 0.0" in httpx.get(f"{brief.url}/metrics").text), "a stream is open"
    assert status(brief, id) == "queued"


# ---- our fault -----------------------------------------------------------------------------------------------------


def test_a_stream_that_we_end_says_so_with_a_problem(brief: Api) -> None:
    job = brief.generate()
    with brief.client.stream("GET", job["urls"]["events"]) as response:
        events = frames(response.iter_lines())
        next(events)
        brief.loop.call_soon_threadsafe(brief.lifecycle.closing.set)
        end = list(events)[-1]
    assert (end["event"], "id" in end) == ("error", False)
    assert end["data"].items() >= {
        "type": "about:blank", "title": "Service Unavailable", "status": 503, "code": "shutting_down",
    }.items()  # fmt: skip
    assert end["data"]["detail"] == end["data"]["error"]["message"]


def test_who_waits_for_a_picture_when_the_server_closes_is_told_so(brief: Api) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(
            httpx.post(f"{brief.url}/v1/generate", json={}, headers={"Accept": "image/png"}, timeout=PATIENCE)
        )

    with meanwhile(ask):
        assert eventually(lambda: brief.queue(lambda q, _, __: q.depth("hand")) == 1), "no job came"
        brief.loop.call_soon_threadsafe(brief.lifecycle.closing.set)
    [answer] = answers
    assert (answer.status_code, answer.json()["code"]) == (503, "draining")
    assert answer.headers["retry-after"].isdigit()
    assert answer.headers["location"] in answer.json()["detail"]


# ---- the reader's ----------------------------------------------------------------------------------------------------


@contextmanager
def asking(api: Api, path: str, headers: dict[str, str]) -> Iterator[str]:
    """A connection that waits for the job that it asked for, whose id is told, and is closed with the block."""
    body = b"{}"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(head.encode() + b"\r\n" + body)
        assert eventually(lambda: api.queue(lambda q, _, __: q.depth("hand")) == 1), "no job came"
        key = api.settings.queue_config.line_key("ready", "hand")
        [id] = api.queue(lambda q, _, __: q.redis.zrange(key, 0, -1))
        yield decoded(id)


WAITING = [{"Accept": "text/event-stream"}, {"Accept": "image/png"}, {"Prefer": "wait=20"}]


@pytest.mark.parametrize("headers", WAITING, ids=["stream", "picture", "wait"])
def test_who_hangs_up_leaves_the_job_alone(api: Api, headers: dict[str, str]) -> None:
    with asking(api, "/v1/generate", headers) as id:
        claim = api.claim()
    api.publish(claim, 1, "started", STARTED)
    assert eventually(lambda: "arpg_http_streams 0.0" in httpx.get(f"{api.url}/metrics").text), "a stream is open"
    assert api.publish(claim, 2, None, {}) == "ok"
    api.finish(claim, 3, [*spec_of(claim).seeds])
    assert status(api, id) == "succeeded"


@pytest.mark.parametrize("headers", WAITING, ids=["stream", "picture", "wait"])
def test_who_asked_for_it_cancels_by_hanging_up(api: Api, headers: dict[str, str]) -> None:
    with asking(api, "/v1/generate?on_disconnect=cancel", headers) as id:
        assert status(api, id) == "queued"
    assert eventually(lambda: status(api, id) == "canceled"), "a queued job is not cancelled"
    with asking(api, "/v1/generate?on_disconnect=cancel", headers) as id:
        claim = api.claim()
        api.publish(claim, 1, "started", STARTED)
    assert eventually(lambda: api.publish(claim, 2, None, {}) == "cancel"), "a running job is not cancelled"


def test_a_wait_that_is_over_is_no_hanging_up(api: Api) -> None:
    for headers in ({"Prefer": "wait=0.1"}, {}):
        with httpx.Client(base_url=api.url) as client:
            job = client.post("/v1/generate?on_disconnect=cancel", json={}, headers=headers).json()
        assert status(api, job["id"]) == "queued"
    assert api.client.post("/v1/generate?on_disconnect=stay", json={}).status_code == 422


LAST_WORDS: list[tuple[WatchEnded | None, str, bool]] = [
    (None, "queued", True),  # nobody told it to go
    (None, "reconnect", False),
    (Lagged("too slow"), "lagged", False),
    (HubClosed("closing"), "shutting_down", False),
]


@pytest.mark.parametrize(("ended", "heard", "cancels"), LAST_WORDS, ids=[heard for _, heard, _ in LAST_WORDS])
def test_who_hangs_up_when_told_to_come_back_cancels_nothing(
    ended: WatchEnded | None, heard: str, cancels: bool
) -> None:
    class EndingWatch(Watch):
        def __init__(self) -> None:
            self.finished, self._coming = False, [Event(id="0-1", name="queued")]

        async def next(self, seconds: float | None = None, push: Push | None = None) -> list[Event]:
            if self._coming:
                return [self._coming.pop()]
            if ended is not None:
                raise ended
            await asyncio.sleep(seconds or 0)
            return []

        async def close(self) -> None:
            pass

    async def cancelled() -> bool:
        leaving, cancel = asyncio.Event(), asyncio.Event()

        async def send(message: Message) -> None:
            if heard.encode() in message.get("body", b""):
                leaving.set()
                await asyncio.Event().wait()  # nothing more is taken

        async def receive() -> Message:
            await leaving.wait()
            return {"type": "http.disconnect"}

        async def abandoned() -> None:
            cancel.set()

        streams = Metrics(CollectorRegistry()).http_streams
        response = EventStreamResponse(
            EndingWatch(), framed, heartbeat=10, life=0.1, streams=streams, abandoned=abandoned
        )
        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        return cancel.is_set()

    assert asyncio.run(cancelled()) is cancels


@contextmanager
def slow_reader(api: Api, job: dict[str, Any], *, holds: int) -> Iterator[tuple[socket.socket, bytes]]:
    """A connection to the job's events with so small a buffer, and what it has said when it is surely watched: before,
    it would be read from Redis."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, holds)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", int(api.url.rpartition(":")[2])))
        connection.sendall(f"GET {job['urls']['events']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        said = b""
        while b"event: queued" not in said:
            said += connection.recv(4096)
        yield connection, said


def test_a_reader_that_trickles_is_cut_off_when_its_time_is_over(brief: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "TAKING_SECONDS", 1.0)
    job = brief.generate()
    claim = brief.claim()
    with slow_reader(brief, job, holds=4096) as (connection, _):
        publish_bulk(brief, claim, 150)

        def trickled() -> bool:
            assert connection.recv(1)
            return "arpg_http_streams 0.0" in brief.client.get("/metrics").text

        assert eventually(trickled), "it is still held"


def test_a_reader_too_slow_is_dropped_and_resumes_without_a_gap(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Watch.__init__

    def small(self: Watch, hub: EventHub, job_id: str, after: str | None, limit: int) -> None:
        real(self, hub, job_id, after, 16)  # or it takes many megabytes

    monkeypatch.setattr(Watch, "__init__", small)
    job = api.generate()
    claim = api.claim()
    count = 150
    with slow_reader(api, job, holds=2**16) as (connection, said):
        publish_bulk(api, claim, count)
        api.finish(claim, count + 1, [*spec_of(claim).seeds])
        while not said.endswith(b"0\r\n\r\n"):
            part = connection.recv(2**16)
            assert part, "it ended without a word"
            said += part
    seen = list(frames(iter(dechunked(said).decode().split("\n"))))
    assert seen[-1]["event"] == "error"
    assert seen[-1]["data"]["code"] == "lagged"
    ids = [event["id"] for event in seen if "id" in event]
    assert 1 < len(ids) < count
    with api.client.stream("GET", job["urls"]["events"], headers={"Last-Event-ID": ids[-1]}) as response:
        rest = [event["id"] for event in frames(response.iter_lines()) if "id" in event]
    assert ids + rest == ["0-1", *(f"1-{sequence}" for sequence in range(1, count + 2))]


def publish_bulk(api: Api, claim: Claim, count: int) -> None:
    """So many events, more than sockets hold."""

    async def publish(queue: Queue, _: object, __: object) -> None:
        for sequence in range(1, count + 1):
            data = encode_event({"positions": "x" * 60_000})  # no preview: of these only the last is kept
            event = Publication(job_id=claim.id, attempt=1, sequence=sequence, event="tokens", data=data)
            await queue.publish([event])

    api.queue(publish)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system can't")
def test_a_reader_that_takes_nothing_is_cut_off(redis_socket: Path) -> None:
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="stalled", stalled_timeout=0.5, _env_file=None)
    with running_api(settings) as api:
        api.show_card()
        job = api.generate()
        claim = api.claim()
        with slow_reader(api, job, holds=4096):
            publish_bulk(api, claim, 150)
            assert eventually(lambda: "arpg_http_streams 0.0" in api.client.get("/metrics").text), "it is still held"
        api.empty()

"""The kinds of answer to a task: a job, the finished job, its events, the picture itself."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image

from tests.support.api import Api, frames
from tests.support.waiting import PATIENCE, eventually


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """`work` in a thread beside the block; what it raises is raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(PATIENCE)
    if raised:
        raise raised[0]


def draw_next(api: Api) -> None:
    """Waits for a job and draws it."""
    assert eventually(lambda: api.queue(lambda q, _, __: q.depth("hand")) > 0)
    api.draw(api.claim())


def test_prefer_wait_answers_with_the_finished_job(api: Api) -> None:
    with meanwhile(lambda: draw_next(api)):
        response = api.client.post("/v1/generate", json={"seed": 3}, headers={"Prefer": "respond-async, wait=10"})
    assert (response.status_code, response.json()["status"]) == (200, "succeeded")
    assert response.headers["preference-applied"] == "wait=10"


def test_prefer_wait_that_is_too_short_answers_202_and_the_job_goes_on(api: Api) -> None:
    began = time.monotonic()
    response = api.client.post("/v1/generate", json={}, headers={"Prefer": "wait=0.3"})
    assert 0.25 < time.monotonic() - began < 10
    assert (response.status_code, response.json()["status"]) == (202, "queued")
    api.draw(api.claim())
    assert api.client.get(response.headers["location"]).json()["status"] == "succeeded"


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_accept_a_picture_and_get_the_picture(api: Api, format: str) -> None:
    with meanwhile(lambda: draw_next(api)):
        response = api.client.post("/v1/generate", json={"seed": 9}, headers={"Accept": f"image/{format}"})
    assert (response.status_code, response.headers["content-type"]) == (200, f"image/{format}")
    assert response.headers["x-seed"] == "9"
    assert response.headers["location"] == f"/v1/jobs/{response.headers['x-job-id']}"
    with Image.open(io.BytesIO(response.content)) as picture:
        assert ((picture.format or "").lower(), picture.size) == (format, (32, 32))


def test_accept_any_picture_and_get_the_format_of_the_request(api: Api) -> None:
    with meanwhile(lambda: draw_next(api)):
        response = api.client.post("/v1/generate", json={"format": "webp"}, headers={"Accept": "image/*"})
    assert (response.status_code, response.headers["content-type"]) == (200, "image/webp")


def test_a_picture_that_is_not_done_in_time_is_a_504_with_its_address(api: Api) -> None:
    response = api.client.post("/v1/generate", json={}, headers={"Accept": "image/png", "Prefer": "wait=0.2"})
    assert (response.status_code, response.json()["code"]) == (504, "not_done_yet")
    api.draw(api.claim())
    assert api.client.get(response.headers["location"] + "/images/0").status_code == 200


def fail_next(api: Api, error: dict[str, str]) -> None:
    while not api.queue(lambda q, _, __: q.depth("hand")):
        time.sleep(0.02)
    claim = api.claim()
    say = {"state": "failed", "event": "failed", "data": {"error": error}, "error": error}
    api.queue(lambda q, _, __: q.finish(claim.id, claim.attempt, 1, **say))  # type: ignore[arg-type]


def test_a_failed_job_is_no_picture(api: Api) -> None:
    error = {"code": "out_of_memory", "message": "too many"}
    with meanwhile(lambda: fail_next(api, error)):
        response = api.client.post("/v1/generate", json={}, headers={"Accept": "image/png"})
    assert (response.status_code, response.json()["code"]) == (500, "out_of_memory")
    assert api.client.get(response.headers["location"] + "/images/0").status_code == 409
    assert api.client.get(response.headers["location"]).json()["error"] == error | {"field": None}


def test_a_fault_of_the_request_that_the_worker_finds_is_the_clients(api: Api) -> None:
    error = {"code": "invalid_request", "message": "prompt: nothing is left of it", "field": "prompt"}
    with meanwhile(lambda: fail_next(api, error)):
        response = api.client.post("/v1/generate", json={}, headers={"Accept": "image/png"})
    told = response.json()
    assert (response.status_code, told["code"]) == (422, "invalid_request")
    [field] = told["errors"]
    assert (field["field"], field["message"]) == ("prompt", "nothing is left of it")
    assert api.client.get(response.headers["location"]).json()["error"] == error


def test_accept_events_and_follow_the_job_on_the_same_connection(api: Api) -> None:
    with (
        meanwhile(lambda: draw_next(api)),
        api.client.stream("POST", "/v1/generate", json={}, headers={"Accept": "text/event-stream"}) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        seen = [frame for frame in frames(response.iter_lines()) if frame["event"] != "heartbeat"]
    assert [frame["event"] for frame in seen] == ["queued", "started", "tokens", "tokens", "completed"]
    assert api.client.get(response.headers["location"]).json()["status"] == "succeeded"
    # Somebody who sees only the events can resume too.
    resumed = api.client.get(seen[0]["data"]["events"], headers={"Last-Event-ID": seen[-2]["id"]})
    assert [frame["event"] for frame in frames(iter(resumed.text.split("\n")))] == ["completed"]


@pytest.mark.parametrize(
    ("accept", "fields", "status"),
    [("image/png", {"n": 2}, 422), ("text/html", {}, 406), ("text/event-stream", {"n": 99}, 422)],
)
def test_an_impossible_wish_is_refused_before_anything_is_queued(
    api: Api, accept: str, fields: dict[str, Any], status: int
) -> None:
    assert api.client.post("/v1/generate", json=fields, headers={"Accept": accept}).status_code == status
    assert api.queue(lambda q, _, __: q.depth("hand")) == 0

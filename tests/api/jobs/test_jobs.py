"""Jobs as clients follow them: status, cancelling, event streams that resume, pictures in the format asked for."""

from __future__ import annotations

import io
import socket
import time
from typing import Any

import httpx
import pytest
from PIL import Image

from service.api import job_access
from service.settings import Settings
from tests.support.api import Api, frames, spec_of
from tests.support.waiting import PATIENCE, eventually


def finished(api: Api, **fields: Any) -> dict[str, Any]:
    job = api.generate(**fields)
    api.draw(api.claim())
    return job


def read(api: Api, url: str, **headers: str) -> list[dict[str, Any]]:
    """All events up to the end of the stream."""
    with api.client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200, response.read()
        return list(frames(response.iter_lines()))


# ---- status and cancelling -----------------------------------------------------------------------------------------


def test_the_status_follows_the_job(api: Api) -> None:
    first, second = api.generate(), api.generate()

    def status(job: dict[str, Any]) -> tuple[str, int | None]:
        now = api.client.get(job["urls"]["self"]).json()
        return now["status"], now["position"]

    assert (status(first), status(second)) == (("queued", 0), ("queued", 1))
    claim = api.claim()
    assert (status(first), status(second)) == (("running", None), ("queued", 0))
    api.draw(claim)
    done = api.client.get(first["urls"]["self"]).json()
    assert done["status"] == "succeeded"
    assert done["created_at"] <= done["started_at"] <= done["finished_at"] < done["expires_at"]
    assert done["timings"]["draw_seconds"] == 0.2
    api.draw(api.claim())


def test_cancelling_a_queued_job_ends_it_at_once_and_again_changes_nothing(api: Api) -> None:
    job = api.generate()
    series = 'arpg_requests_total{model="hand",outcome="canceled",task="generate"}'
    assert f"{series} 0.0" in api.client.get("/metrics").text, "rate() would miss the first"
    for _ in range(2):
        response = api.client.delete(job["urls"]["cancel"])
        assert (response.status_code, response.json()["status"]) == (200, "canceled")
    assert [frame["event"] for frame in read(api, job["urls"]["events"])] == ["queued", "canceled"]
    assert f"{series} 1.0" in api.client.get("/metrics").text
    assert api.client.get(job["urls"]["self"] + "/images/0").json()["code"] == "canceled"


def test_cancelling_a_running_job_reaches_its_worker(api: Api) -> None:
    job = api.generate()
    claim = api.claim()
    response = api.client.delete(job["urls"]["cancel"])
    assert (response.status_code, response.json()["status"]) == (202, "running")
    assert api.publish(claim, 1, None, {}) == "cancel"
    api.queue(lambda q, _, __: q.finish(claim.id, 1, 2, state="canceled", event="canceled", data={}))
    response = api.client.delete(job["urls"]["cancel"])
    assert (response.status_code, response.json()["status"]) == (200, "canceled")


def test_cancelling_a_finished_job_leaves_it_as_it_is(api: Api) -> None:
    job = finished(api)
    response = api.client.delete(job["urls"]["cancel"])
    assert (response.status_code, response.json()["status"]) == (200, "succeeded")


def test_unknown_and_expired_jobs_are_told_apart(api: Api) -> None:
    old = f"{int(time.time()) - 7200:08x}-{'0' * 24}"
    new = f"{int(time.time()):08x}-{'0' * 24}"
    for path in ("", "/events", "/images/0"):
        for id, status, code in ((old, 410, "expired"), (new, 404, "unknown_job"), ("nonsense", 404, "unknown_job")):
            response = api.client.get(f"/v1/jobs/{id}{path}")
            assert (response.status_code, response.json()["code"]) == (status, code)
    assert api.client.delete(f"/v1/jobs/{new}").status_code == 404


@pytest.mark.parametrize("id", ["", "x", "zzzzzzzz-0", "12345678", "-", "fffffffff-0", "ffffffff-1"])
def test_an_id_of_another_make_tells_no_time(id: str) -> None:
    assert not job_access.expired(id, 3600)


# ---- events --------------------------------------------------------------------------------------------------------


def test_a_stream_tells_everything_in_order_and_ends(api: Api) -> None:
    job = finished(api, n=2)
    events = read(api, job["urls"]["events"])
    assert [event["event"] for event in events] == ["queued", "started", *["tokens"] * 4, "completed"]
    ids = [tuple(map(int, event["id"].split("-"))) for event in events]
    assert ids == sorted(set(ids))
    assert [event.get("retry") for event in events] == ["2000"] + [None] * 6
    painted = {0: set(), 1: set()}  # type: dict[int, set[int]]
    for event in events[2:-1]:
        painted[event["data"]["image_index"]] |= set(event["data"]["positions"])
    assert painted == {0: set(range(16)), 1: set(range(16))}
    images = events[-1]["data"]["images"]
    assert images == api.client.get(job["urls"]["self"]).json()["images"]
    assert all(api.client.get(image["url"]).status_code == 200 for image in images)


def test_a_stream_resumes_after_any_event_by_header_and_by_query(api: Api) -> None:
    job = finished(api, n=2)
    url = job["urls"]["events"]
    events = read(api, url)
    for index, event in enumerate(events[:-1]):
        rest = [frame["id"] for frame in events[index + 1 :]]
        assert [frame["id"] for frame in read(api, url, **{"Last-Event-ID": event["id"]})] == rest
        assert [frame["id"] for frame in read(api, f"{url}?last_event_id={event['id']}")] == rest
    # The header, which a browser keeps up to date, beats the URL that it once opened.
    both = read(api, f"{url}?last_event_id={events[0]['id']}", **{"Last-Event-ID": events[3]["id"]})
    assert both[0]["id"] == events[4]["id"]


def test_a_stream_that_was_seen_to_its_end_is_not_opened_again(api: Api) -> None:
    job = finished(api)
    last = read(api, job["urls"]["events"])[-1]["id"]
    # 204 is what stops a browser's EventSource from reconnecting.
    assert api.client.get(job["urls"]["events"], headers={"Last-Event-ID": last}).status_code == 204


@pytest.mark.parametrize("nonsense", ["x", "-", "1", "9-9-9", "99999-1", "0-0"])
def test_a_position_that_never_was_starts_from_the_beginning(api: Api, nonsense: str) -> None:
    job = finished(api)
    assert read(api, job["urls"]["events"], **{"Last-Event-ID": nonsense})[0]["event"] == "queued"


def test_events_arrive_as_they_happen_with_heartbeats_between(api: Api) -> None:
    job = api.generate()
    with api.client.stream("GET", job["urls"]["events"]) as response:
        assert response.headers["cache-control"].startswith("no-cache")
        assert response.headers["x-accel-buffering"] == "no"
        events = frames(response.iter_lines())
        assert next(events)["event"] == "queued"
        beat = next(events)
        assert (beat["event"], "id" in beat) == ("heartbeat", False)
        claim = api.claim()
        api.publish(claim, 1, "started", {"attempt": 1, "images": 1, "grid": [4, 4], "steps": 2, "known": 0})
        assert next(e for e in events if e["event"] != "heartbeat")["event"] == "started"
        api.finish(claim, 2, [*spec_of(claim).seeds])
        assert [e["event"] for e in events if e["event"] != "heartbeat"] == ["completed"]


def test_a_watcher_that_goes_away_leaves_the_job_alone_and_nothing_open(api: Api) -> None:
    job = api.generate()
    with httpx.Client(base_url=api.url) as other, other.stream("GET", job["urls"]["events"]) as response:
        events = frames(response.iter_lines())  # held: dropping it would close the connection
        next(events)
        assert "arpg_http_streams 1.0" in api.client.get("/metrics").text
    assert eventually(lambda: "arpg_http_streams 0.0" in api.client.get("/metrics").text), "the stream is still open"
    assert api.client.get(job["urls"]["self"]).json()["status"] == "queued"
    api.draw(api.claim())


def test_many_watch_one_job_and_all_see_the_same(api: Api) -> None:
    job = api.generate()
    clients = [httpx.Client(base_url=api.url, timeout=PATIENCE) for _ in range(20)]
    streams = [client.stream("GET", job["urls"]["events"]) for client in clients]
    responses = [stream.__enter__() for stream in streams]
    api.draw(api.claim())
    seen = [
        [frame["id"] for frame in frames(response.iter_lines()) if frame["event"] != "heartbeat"]
        for response in responses
    ]
    assert len(seen[0]) == 5
    assert all(ids == seen[0] for ids in seen)
    for client in clients:
        client.close()


def test_closing_tells_watchers_and_they_may_come_back(redis_socket: Any) -> None:
    from tests.support.api import running_api

    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="closing", _env_file=None)
    with running_api(settings) as first:
        first.show_card()
        job = first.generate()
        with first.client.stream("GET", job["urls"]["events"]) as response:
            events = frames(response.iter_lines())
            last = next(events)["id"]
            first.loop.call_soon_threadsafe(first.lifecycle.closing.set)
            [end] = list(events)
            assert (end["event"], end["data"]["error"]["code"], "id" in end) == ("error", "shutting_down", False)
    with running_api(settings) as second:
        second.draw(second.claim())
        told = read(second, job["urls"]["events"], **{"Last-Event-ID": last})
        assert [event["event"] for event in told] == ["started", "tokens", "tokens", "completed"]


def test_a_stream_whose_events_vanish_says_so(api: Api) -> None:
    job = finished(api)
    config = api.settings.queue_config

    async def forget(queue: Any, _: Any, __: Any) -> None:
        await queue.redis.delete(f"{config.prefix}events:{job['id']}")

    api.queue(forget)
    for headers in ({}, {"Last-Event-ID": "1-1"}):
        gone = api.client.get(job["urls"]["events"], headers=headers)
        assert (gone.status_code, gone.json()["code"]) == (410, "expired")

    job = api.generate()
    api.queue(forget)
    [end] = read(api, job["urls"]["events"])
    assert (end["event"], end["data"]["error"]["code"]) == ("error", "expired")


def test_a_job_that_nobody_draws_ends_and_is_counted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    expired, job = api.metrics.job_failures.labels("hand", "expired_waiting"), api.generate()
    before = expired._value.get()
    unended = f"{api.settings.queue_config.prefix}unended"
    api.queue(lambda queue, _, __: queue.redis.zadd(unended, {job["id"]: 1}))  # a day has passed for it
    monkeypatch.setattr("service.jobs.event_hub.AUDIT_SECONDS", 0)
    [*_, end] = read(api, job["urls"]["events"])
    assert (end["event"], end["data"]["error"]["code"]) == ("failed", "expired_waiting")
    assert expired._value.get() == before + 1


# ---- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "query", "accept", "served"),
    [
        ("png", "", None, "PNG"),
        ("jpeg", "", None, "JPEG"),
        ("png", "?format=webp", "image/png", "WEBP"),
        ("png", "", "image/webp", "WEBP"),
        # A browser names WebP and tolerates the rest; its user asked for PNG and gets PNG.
        ("png", "", "image/avif,image/webp,image/apng,image/*,*/*;q=0.8", "PNG"),
        ("png", "", "image/jpeg;q=0.5, image/webp;q=0.9", "WEBP"),
        ("png", "", "image/png;q=0, image/*;q=0.5", "JPEG"),
        ("png", "", "image/*;q=0.5, image/png;q=0", "JPEG"),
    ],
)
def test_a_picture_comes_in_the_format_asked_for(
    api: Api, format: str, query: str, accept: str | None, served: str
) -> None:
    job = finished(api, format=format)
    headers = {"Accept": accept} if accept else {}
    response = api.client.get(f"{job['urls']['self']}/images/0{query}", headers=headers)
    assert response.status_code == 200
    with Image.open(io.BytesIO(response.content)) as picture:
        assert picture.format == served
    assert response.headers["content-type"] == f"image/{served.lower()}"
    assert f".{ {'JPEG': 'jpg'}.get(served, served.lower()) }" in response.headers["content-disposition"]


def test_a_picture_that_is_not_there_is_an_answer(api: Api) -> None:
    job = api.generate()
    url = job["urls"]["self"] + "/images/0"
    early = api.client.get(url)
    assert (early.status_code, early.json()["code"], early.headers["retry-after"]) == (409, "not_done_yet", "1")
    claim = api.claim()
    api.draw(claim)
    assert api.client.get(job["urls"]["self"] + "/images/1").status_code == 404
    assert api.client.get(job["urls"]["self"] + "/images/-1").status_code == 422
    assert api.client.get(url, headers={"Accept": "text/html"}).status_code == 406
    assert api.client.get(url + "?format=gif").status_code == 422
    api.queue(lambda _, __, blobs: blobs.delete(f"{claim.id}/result/0"))
    assert api.client.get(url).status_code == 410


# ---- when Redis is away --------------------------------------------------------------------------------------------


def test_without_redis_the_service_says_so_and_stays() -> None:
    from tests.support.api import running_api

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings = Settings(redis_url=f"redis://127.0.0.1:{port}/0", _env_file=None)
    with running_api(settings) as api:
        took = []
        for _ in range(5):
            began = time.monotonic()
            ready = api.client.get("/readyz")
            took.append(time.monotonic() - began)
        assert min(took) < 1.5  # a probe does not wait for retries
        assert (ready.status_code, "redis" in ready.json()["reasons"][0]) == (503, True)
        assert api.client.get("/healthz").status_code == 200
        assert api.client.get("/metrics").status_code == 200
        response = api.client.post("/v1/generate", json={})
        assert (response.status_code, response.json()["code"]) == (503, "queue_unavailable")
        assert response.headers["retry-after"].isdigit()

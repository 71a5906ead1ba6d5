"""A stranger gets nothing, and a client its own jobs alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.api.routes import forks, health, job_list, jobs, models, prometheus, sessions, tasks, webhooks
from service.api.routes import tasks as editing
from service.jobs import NewJob, Queue, Submitted
from service.server.app import create_app
from tests.support.api import noise, png
from tests.support.keys import Keyed, code

# ---- strangers ------------------------------------------------------------------------------------------------------

OPEN = {"/", "/docs", "/openapi.json", "/healthz", "/readyz", "/playground"}


def test_every_route_but_the_open_ones_needs_a_key(keyed: Keyed) -> None:
    topics = (editing, forks, health, job_list, jobs, models, prometheus, sessions, tasks, webhooks)
    routes = [route for topic in topics for route in topic.router.routes]
    routes += [route for route in create_app(keyed.api.settings).routes if hasattr(route, "path")]
    asked = {(route.path, method) for route in routes for method in getattr(route, "methods", None) or {"GET"}}
    assert ("/metrics", "GET") in asked
    assert ("/v1/jobs/{id}/events", "GET") in asked
    for path, method in sorted(asked):
        response = keyed.ask(None, method, path.replace("{id}", "x").replace("{index}", "0").replace("{model}", "hand"))
        if path not in OPEN:
            assert response.status_code == 401, (method, path)
            assert response.headers["www-authenticate"] == "Bearer"
            assert method == "HEAD" or response.headers["content-type"] == "application/problem+json"
        else:
            assert response.status_code in (200, 307, 405), (method, path)
    for path in ("/nothing", "/healthz/", "/v1", "/metrics/", "/playgrounds", "/docs/x"):
        assert keyed.ask(None, "GET", path).status_code == 401, path


def test_a_refused_stranger_is_told_before_its_body_is_read(keyed: Keyed) -> None:
    def body() -> Iterator[bytes]:
        yield b"{"
        raise AssertionError("it went on to read")

    with httpx.Client(base_url=keyed.api.url) as client, pytest.raises(AssertionError):
        client.post("/v1/generate", content=body(), headers={"Content-Length": "100"})
    assert keyed.api.queue(lambda q, _, __: q.depth("hand")) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer x"}, {"Authorization": "Bearer"}, {"Authorization": "Basic YTpi"},
        {"X-API-Key": "arpg_00000000_" + "A" * 43}, {"Cookie": "arpg_session=x"},
        {"X-API-Key": b"\xe9"},
    ],
)  # fmt: skip
def test_what_is_no_key_opens_nothing(keyed: Keyed, headers: dict[str, Any]) -> None:
    assert keyed.ask(None, "GET", "/v1/models", headers=headers).status_code == 401


def test_a_key_with_one_letter_changed_is_no_key(keyed: Keyed) -> None:
    text = keyed.texts["ann"]
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")
    assert code(keyed.ask(None, "GET", "/v1/models", headers={"X-API-Key": wrong})) == (401, "key_invalid")
    assert keyed.ask(None, "GET", "/v1/models", headers={"X-API-Key": text}).status_code == 200


def test_with_keys_a_server_goes_by_any_name(keyed: Keyed) -> None:
    assert keyed.ask("ann", "GET", "/v1/models", headers={"Host": "art.example"}).status_code == 200


def test_an_empty_bearer_hides_no_other_key(keyed: Keyed) -> None:
    for empty in ("Bearer", "bearer"):
        headers = {"Authorization": empty, "X-API-Key": keyed.texts["ann"]}
        assert keyed.ask(None, "GET", "/v1/models", headers=headers).status_code == 200


def test_the_pages_are_open_and_readiness_tells_a_stranger_no_more_than_itself(keyed: Keyed) -> None:
    for path in ("/", "/docs", "/openapi.json", "/healthz", "/playground/app.js"):
        assert keyed.ask(None, "GET", path).status_code == 200
    assert keyed.ask(None, "GET", "/readyz").json() == {"status": "ready"}
    assert keyed.ask("ann", "GET", "/readyz").json() == {"status": "ready", "models": ["hand"]}


def test_metrics_are_for_keys_with_that_scope_which_can_draw_nothing(keyed: Keyed) -> None:
    assert keyed.ask(None, "GET", "/metrics").status_code == 401
    assert code(keyed.ask("ann", "GET", "/metrics")) == (403, "scope_needed")
    assert "arpg_http_requests_total" in keyed.ask("ops", "GET", "/metrics").text
    assert code(keyed.ask("ops", "POST", "/v1/generate", json={})) == (403, "scope_needed")
    assert code(keyed.ask("ops", "GET", "/v1/models")) == (403, "scope_needed")


# ---- foreign jobs ---------------------------------------------------------------------------------------------------


def test_a_foreign_job_is_404_everywhere_and_left_alone(keyed: Keyed) -> None:
    job = keyed.finished("ann")
    own = job["urls"]["self"]
    picture = {"source": {"job": job["id"]}, "keep": 0.5}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", own, {}), ("DELETE", own, {}), ("GET", f"{own}/events", {}), ("GET", f"{own}/images/0", {}),
        ("POST", f"{own}/fork", {"json": {"step": 1}}), ("POST", f"{own}/links", {}),
        ("POST", "/v1/vary", {"json": picture}),
    ]  # fmt: skip
    nobody = f"{int(time.time()):08x}-{'0' * 24}"
    for method, path, more in asked:
        foreign = keyed.ask("bob", method, path, **more)
        assert code(foreign) == (404, "unknown_job"), (method, path)
        # Word for word as for a job that never was.
        unknown = json.loads(json.dumps(more).replace(job["id"], nobody))
        never = keyed.ask("bob", method, path.replace(job["id"], nobody), **unknown)
        same = [{k: v for k, v in r.json().items() if k not in ("request_id", "instance")} for r in (foreign, never)]
        assert same[0] == same[1]
    for method, path, more in asked[:1] + asked[2:]:
        assert keyed.ask("ann", method, path, **more).status_code in (200, 202), (method, path)


def test_a_foreign_job_that_waits_cannot_be_cancelled(keyed: Keyed) -> None:
    job = keyed.ask("ann", "POST", "/v1/generate", json={}).json()
    assert keyed.ask("bob", "DELETE", job["urls"]["cancel"]).status_code == 404
    assert keyed.ask("ann", "GET", job["urls"]["self"]).json()["status"] == "queued"


def test_an_old_foreign_job_that_is_still_kept_looks_like_one_that_is_not(
    keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.create_job.time.time", lambda: 2.0**30)
    job = keyed.ask("ann", "POST", "/v1/generate", json={}).json()
    monkeypatch.undo()
    never = f"{job['id'][:8]}-{'0' * 24}"
    for id in (job["id"], never):
        assert code(keyed.ask("bob", "GET", f"/v1/jobs/{id}")) == (410, "expired")
    assert keyed.ask("ann", "GET", job["urls"]["self"]).status_code == 200


def test_an_idempotency_key_is_its_clients_own(keyed: Keyed) -> None:
    sent = {"json": {"seed": 1}, "headers": {"Idempotency-Key": "same"}}
    ids = [keyed.ask(who, "POST", "/v1/generate", **sent).json()["id"] for who in ("ann", "bob", "ann")]
    assert ids[0] == ids[2] != ids[1]
    other = keyed.ask("bob", "POST", "/v1/generate", json={"seed": 2}, headers={"Idempotency-Key": "same"})
    assert code(other) == (422, "key_reused")


def test_the_queue_hears_whose_job_it_is_and_what_it_weighs(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    real, heard = Queue.submit, []

    async def submit(self: Queue, job: NewJob) -> Submitted:
        heard.append((job.client, job.weight, job.quota, job.priority))
        return await real(self, job)

    monkeypatch.setattr(Queue, "submit", submit)
    job = keyed.ask("ann", "POST", "/v1/generate", json={"priority": "high"}).json()
    keyed.api.draw(keyed.api.claim())
    fork = keyed.ask("ann", "POST", f"{job['urls']['self']}/fork", json={"step": 1, "priority": "low"})
    assert fork.status_code == 202
    assert heard == [("ann", 2.0, 7, "high"), ("ann", 2.0, 7, "low")]


# ---- priorities -----------------------------------------------------------------------------------------------------


def test_a_key_asks_for_no_higher_priority_than_its_own(keyed: Keyed) -> None:
    refused = keyed.ask("bob", "POST", "/v1/generate", json={"priority": "high"})
    assert code(refused) == (403, "priority_not_allowed")
    assert refused.json()["errors"][0]["field"] == "priority"
    assert keyed.ask("bob", "POST", "/v1/generate", json={"priority": "low"}).status_code == 202
    assert keyed.ask("ann", "POST", "/v1/generate", json={"priority": "high"}).status_code == 202
    picture = {"image": png(noise(8, 8)), "mask": png(noise(8, 8, channels=1))}
    inpainting = keyed.ask("bob", "POST", "/v1/inpaint", data={"priority": "high"}, files=picture)
    assert code(inpainting) == (403, "priority_not_allowed")
    assert keyed.ask("ann", "POST", "/v1/generate", json={"priority": "urgent"}).status_code == 422

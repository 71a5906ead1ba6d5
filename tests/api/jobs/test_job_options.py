"""What a request asks of the queue by headers: a start deadline, and a webhook; and what a job tells of its time."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings
from tests.support.api import Api, frames, running_api
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def quick_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica looks for late jobs more often than once in two seconds."""
    monkeypatch.setattr("service.jobs.event_hub.BLOCK_SECONDS", 0.05)
    monkeypatch.setattr("service.jobs.event_hub.SWEEP_SECONDS", 0.05)


def undrawn(api: Api) -> float:
    return api.metrics.job_failures.labels("hand", "start_timeout")._value.get()


# ---- start deadlines -----------------------------------------------------------------------------------------------


def test_a_job_that_no_worker_began_with_in_time_fails_and_is_counted(api: Api) -> None:
    before = undrawn(api)
    response = api.client.post("/v1/generate", json={}, headers={"X-Start-Timeout": "0.05"})
    job = response.json()
    assert (response.status_code, job["status"]) == (202, "queued")
    assert job["start_by"] > job["created_at"]
    with api.client.stream("GET", job["urls"]["events"]) as stream:
        *_, end = frames(stream.iter_lines())
    assert (end["event"], end["data"]["error"]["code"]) == ("failed", "start_timeout")
    told = api.client.get(job["urls"]["self"]).json()
    error = end["data"]["error"] | {"field": None}
    assert (told["status"], told["error"], told["started_at"]) == ("failed", error, None)
    assert "0.05 seconds of X-Start-Timeout" in told["error"]["message"]
    assert eventually(lambda: undrawn(api) == before + 1)


def test_a_client_that_accepts_only_a_picture_gets_a_timeout(api: Api) -> None:
    headers = {"X-Start-Timeout": "0.05", "Accept": "image/png"}
    response = api.client.post("/v1/generate", json={}, headers=headers)
    assert (response.status_code, response.json()["code"]) == (504, "start_timeout")
    assert response.headers["x-job-id"]


def test_a_job_that_starts_in_time_is_drawn_and_a_fork_may_have_a_deadline_too(api: Api) -> None:
    job = api.client.post("/v1/generate", json={}, headers={"X-Start-Timeout": "86400"}).json()
    api.draw(api.claim())
    assert api.client.get(job["urls"]["self"]).json()["status"] == "succeeded"
    fork = api.client.post(job["urls"]["self"] + "/fork", json={"step": 1}, headers={"X-Start-Timeout": "0.05"}).json()
    fork_url = fork["urls"]["self"]
    assert eventually(lambda: api.client.get(fork_url).json()["status"] == "failed")


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "1e3", "86401", "", "5 s", "0.0001"])
def test_a_start_timeout_that_is_no_time_is_refused_by_name(api: Api, value: str) -> None:
    response = api.client.post("/v1/generate", json={}, headers={"X-Start-Timeout": value})
    [error] = response.json()["errors"]
    assert (response.status_code, error["in"], error["field"]) == (400, "header", "X-Start-Timeout")
    assert "a number of seconds above 0 and up to 86400" in error["message"]


# ---- webhooks ------------------------------------------------------------------------------------------------------


def test_webhooks_are_off_by_default_and_a_client_is_told_so(api: Api) -> None:
    response = api.client.post("/v1/generate", json={}, headers={"X-Webhook-URL": "https://hooks.test/"})
    [error] = response.json()["errors"]
    assert (response.status_code, error["code"], error["field"]) == (400, "webhooks_off", "X-Webhook-URL")
    assert "ARPG_WEBHOOK_HOSTS" in error["message"]
    secret = api.client.get("/v1/webhooks/secret")
    assert (secret.status_code, secret.json()["code"]) == (404, "webhooks_off")


def test_a_webhook_to_a_host_that_is_not_listed_is_refused(redis_socket: Path) -> None:
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace="hosts", webhook_hosts="hooks.test", _env_file=None
    )
    with running_api(settings) as api:
        api.show_card()
        for url in ("https://evil.test/", "http://hooks.test/", "nonsense"):
            response = api.client.post("/v1/generate", json={}, headers={"X-Webhook-URL": url})
            [error] = response.json()["errors"]
            assert (response.status_code, error["code"]) == (400, "webhook_not_allowed")
            assert error["field"] == "X-Webhook-URL"
        accepted = api.client.post("/v1/generate", json={}, headers={"X-Webhook-URL": "https://hooks.test/x"}).json()
        assert accepted["webhook"] == {"url": "https://hooks.test/x", "state": "pending", "tries": 0, "error": ""}
        assert api.client.get("/v1/webhooks/secret").json()["secret"].startswith("whsec_")


# ---- times ---------------------------------------------------------------------------------------------------------


def test_a_job_tells_the_stages_that_are_over_and_an_estimate_once_there_is_one(api: Api) -> None:
    def told(url: str) -> tuple[set[str], bool]:
        job = api.client.get(url).json()
        return set(job["timings"]), job["eta_seconds"] is not None

    job, canceled = api.generate(), api.generate()
    url = job["urls"]["self"]
    assert told(url)[0] == set()
    claim = api.claim()
    assert told(url)[0] == {"queue_seconds"}
    api.draw(claim)
    assert told(url) == ({"queue_seconds", "draw_seconds", "total_seconds"}, False)  # as the worker by hand times it
    api.client.delete(canceled["urls"]["cancel"])
    assert told(canceled["urls"]["self"]) == ({"total_seconds"}, False)
    running = api.generate()
    pace = f"{api.settings.queue_config.prefix}pace:{api.settings.queue_config.line('hand')}"
    api.queue(lambda queue, _, __: queue.redis.hset(pace, "run", 10_000))
    claim = api.claim()
    assert 0 < api.client.get(running["urls"]["self"]).json()["eta_seconds"] <= 80  # 8 steps of 10 s
    api.draw(claim)

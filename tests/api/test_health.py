"""Readiness tells the truth, and a canary shows that a picture can be drawn."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest

from service.api.routes import canary
from service.metrics.series import OUTCOMES
from service.services import SingleFlight
from tests.api.test_answers import meanwhile
from tests.support.api import CARD, Api, spec_of
from tests.support.waiting import eventually


def wait_for(api: Api, depth: int) -> None:
    """Until so many jobs wait."""
    assert eventually(lambda: api.queue(lambda q, _, __: q.depth("hand")) >= depth)


def draw_canary(api: Api, seen: list[Any]) -> None:
    wait_for(api, 1)
    claim = api.claim()
    seen += [claim, api.queue(lambda q, _, __: q.job(claim.id))]
    api.draw(claim)


def fail_canary(api: Api) -> None:
    wait_for(api, 1)
    claim, error = api.claim(), {"code": "engine_failed", "message": "x"}
    ended: dict[str, Any] = {"state": "failed", "event": "failed", "data": {"error": error}, "error": error}
    api.queue(lambda q, _, __: q.finish(claim.id, 1, 1, **ended))


def test_a_canary_is_the_smallest_picture_drawn_through_the_queue(api: Api) -> None:
    seen: list[Any] = []
    with meanwhile(lambda: draw_canary(api, seen)):
        response = api.client.get("/readyz?canary=1")
    assert response.status_code == 200
    [(model, sung)] = response.json()["canary"].items()
    assert (model, sung["status"], sung["timings"]["draw_seconds"]) == ("hand", "succeeded", 0.2)
    assert 0 < sung["seconds"] < 20
    claim, job = seen
    assert (spec_of(claim).n, spec_of(claim).sampling.steps, claim.cost) == (1, 1, 16)
    assert job.client == "canary"
    # Nobody's picture: not even for those without a key.
    assert api.client.get(f"/v1/jobs/{claim.id}").status_code == 404


def test_a_canary_that_dies_or_is_not_drawn_in_time_is_a_503(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    with meanwhile(lambda: fail_canary(api)):
        response = api.client.get("/readyz?canary=1")
    sung = response.json()["canary"]["hand"]
    assert (response.status_code, sung["status"], sung["error"]) == (503, "failed", "engine_failed")
    monkeypatch.setattr(canary, "TIMEOUT", 0.1)
    response = api.client.get("/readyz?canary=1")
    assert (response.status_code, response.json()["canary"]["hand"]["status"]) == (503, "queued")
    assert api.queue(lambda q, _, __: q.depth("hand")) == 0  # it is not left to be drawn


def test_who_asks_while_a_canary_is_drawn_shares_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = SingleFlight.result, threading.Semaphore(0)
    answers: list[Any] = []
    claims: list[Any] = []

    async def result(self: SingleFlight[Any], begin: Any) -> Any:
        asking = asyncio.ensure_future(real(self, begin))
        await asyncio.sleep(0)  # it has found what is under way, or begun
        asked.release()
        return await asking

    monkeypatch.setattr(SingleFlight, "result", result)

    def ask() -> None:
        answers.append(api.client.get("/readyz?canary=1"))

    with meanwhile(ask), meanwhile(ask), meanwhile(ask):
        for _ in range(3):
            assert asked.acquire(timeout=30)
        draw_canary(api, claims)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.text for answer in answers}) == 1
    # The next one is drawn anew.
    with meanwhile(lambda: draw_canary(api, claims)):
        assert api.client.get("/readyz?canary=1").status_code == 200


def test_a_canary_overtakes_the_backlog_of_others(api: Api) -> None:
    for _ in range(10):
        api.generate(n=16)
    claims: list[Any] = []

    def draw_three() -> None:
        wait_for(api, 11)
        for _ in range(3):
            claims.append(api.claim())
            api.draw(claims[-1])

    with meanwhile(draw_three):
        assert api.client.get("/readyz?canary=1").status_code == 200
    assert 1 in [spec_of(claim).sampling.steps for claim in claims]


def test_readiness_follows_the_card_and_the_drain(api: Api) -> None:
    assert api.client.get("/readyz").json() == {"status": "ready", "models": ["hand"]}
    api.withdraw_card("hand-1")
    gone = api.client.get("/readyz")
    assert (gone.status_code, gone.json()["reasons"]) == (503, ["no worker is alive yet"])
    assert gone.headers["retry-after"].isdigit()
    assert api.client.get("/readyz?canary=1").status_code == 503
    api.show_card()
    api.lifecycle.draining = True
    try:
        assert api.client.get("/readyz").json()["reasons"] == ["the server is shutting down"]
        assert httpx.get(f"{api.url}/healthz").status_code == 200
    finally:
        api.lifecycle.draining = False
    assert api.client.get("/readyz").status_code == 200


# ---- metrics -------------------------------------------------------------------------------------------------------


def told(api: Api) -> dict[str, float]:
    lines = api.client.get("/metrics").text.splitlines()
    return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def test_a_scrape_tells_what_all_processes_share(api: Api) -> None:
    def stored() -> float:
        now = told(api)
        return sum(now[f'arpg_queue_blob_bytes{{kind="{kind}"}}'] for kind in ("uploads", "pictures"))

    before = stored()
    api.generate()
    first = told(api)
    assert first['arpg_queue_depth{model="hand"}'] == first['arpg_queue_workers{model="hand"}'] == 1
    assert first["arpg_queue_blob_limit_bytes"] == api.settings.blob_config.max_bytes
    age = 'arpg_queue_oldest_job_seconds{model="hand"}'
    assert eventually(lambda: told(api)[age] > first[age])
    claim = api.claim()
    running = told(api)
    assert (running['arpg_queue_running{model="hand"}'], running[age]) == (1, 0)
    api.draw(claim)
    assert stored() > before
    api.withdraw_card("hand-1")
    try:
        assert told(api)['arpg_queue_workers{model="hand"}'] == 0
    finally:
        api.show_card()


def test_the_counts_of_a_model_begin_at_0_and_refusals_name_it(api: Api) -> None:
    def outcomes() -> dict[tuple[str, str], float]:
        now = told(api)
        series = 'arpg_requests_total{{model="hand",outcome="{}",task="{}"}}'
        return {(outcome, task): now[series.format(outcome, task)] for outcome in OUTCOMES for task in CARD.tasks}

    before = outcomes()
    api.withdraw_card("hand-1")
    try:
        assert api.client.post("/v1/generate", json={}).json()["code"] == "no_worker"
        assert api.client.post("/v1/generate", json={"model": "nobody"}).json()["code"] == "no_worker"
    finally:
        api.show_card()
    after = outcomes()
    assert {key for key in after if after[key] != before[key]} == {("no_worker", "generate")}
    assert after["no_worker", "generate"] == before["no_worker", "generate"] + 1
    assert 'model="nobody"' not in api.client.get("/metrics").text

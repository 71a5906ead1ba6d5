"""Jobs of another version of the service: refused by their code and never misread; accepted only where one is read."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest

from engine.card import ModelCard
from service.jobs import NewJob
from service.jobs.spec import SPEC_VERSION
from tests.support.api import CAPACITY, CARD, Api


def submit(api: Api, text: str) -> str:
    job = NewJob(id=uuid.uuid4().hex, model=CARD.name, cost=16, spec=text)
    api.queue(lambda queue, _, __: queue.submit(job))
    return job.id


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (json.dumps({"version": SPEC_VERSION + 1, "task": "generate"}), "unsupported_job_version"),
        (json.dumps({"task": "generate", "n": 1, "seeds": [1]}), "unsupported_job_version"),  # before there were any
        (json.dumps({"version": SPEC_VERSION, "task": "generate"}), "invalid_payload"),
        ("no json", "invalid_payload"),
    ],
)
def test_a_job_that_this_version_does_not_read_is_a_409_wherever_it_is_asked_for(
    api: Api, text: str, code: str
) -> None:
    job = submit(api, text)
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", f"/v1/jobs/{job}", {}),
        ("POST", f"/v1/jobs/{job}/fork", {"json": {"step": 1}}),
        ("POST", f"/v1/jobs/{job}/links", {}),
        ("GET", f"/v1/jobs/{job}/images/0", {}),
        ("DELETE", f"/v1/jobs/{job}", {}),
    ]
    for method, path, more in asked:
        response = api.client.request(method, path, **more)
        assert (response.status_code, response.json()["code"]) == (409, code), (method, path)


def test_a_result_that_this_version_does_not_read_is_a_409(api: Api) -> None:
    id = api.generate()["id"]
    claim = api.claim()
    earlier = {"images": [{"index": 0, "seed": 1, "tokens": [[0] * 4] * 4}], "timings": {}, "usage": {}}
    ended: dict[str, Any] = {"state": "succeeded", "event": "completed", "data": {}, "result": earlier}
    api.queue(lambda queue, _, __: queue.finish(id, claim.attempt, 1, **ended))
    source = {"source": {"job": id, "image": 0}}
    for method, path, sent in (
        ("GET", f"/v1/jobs/{id}", None),
        ("GET", f"/v1/jobs/{id}/images/0", None),
        ("POST", f"/v1/jobs/{id}/fork", {"step": 1}),
        ("POST", "/v1/vary", source),
    ):
        response = api.client.request(method, path, json=sent)
        assert (response.status_code, response.json()["code"]) == (409, "invalid_payload"), (method, path)


def test_cards_pass_between_versions() -> None:
    """Servers of earlier versions refuse fields that they don't know; this one passes over those of later versions."""
    told = json.loads(json.dumps(CARD.to_json()))
    assert not {"conditioning", "condition_rows", "task_defaults", "example_prompts"} & told.keys()
    assert ModelCard.from_json(told | {"of_a_later_version": 1}) == CARD
    text = replace(CARD, conditioning="text", condition_rows=120, classes=())
    own = replace(CARD, task_defaults={"outpaint": {"top_p": 0.5}})
    for card in (text, own, replace(text, example_prompts=("a red mug", "a blue house"))):
        assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_jobs_are_accepted_only_while_a_worker_reads_them(api: Api) -> None:
    def show(version: int | None) -> None:
        card: dict[str, Any] = {"worker": "hand-1", "models": [{"card": CARD.to_json(), "capacity": CAPACITY}]}
        card |= {} if version is None else {"spec": version}
        api.queue(lambda _, cards, __: cards.put("hand-1", card))

    try:
        for version in (None, SPEC_VERSION + 1):
            show(version)
            api.wait_for_models(lambda served: not served)
            refused = api.client.post("/v1/generate", json={"class": 1})
            assert (refused.status_code, refused.json()["code"]) == (503, "no_worker")
            assert "retry-after" in refused.headers
    finally:
        api.show_card()
    assert api.client.post("/v1/generate", json={"class": 1}).status_code == 202

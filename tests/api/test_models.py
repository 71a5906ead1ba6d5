"""Several models behind one API: what there is, which one a request means, and what it may ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.card import SETTINGS, Defaults, class_labels
from engine.models.model_index import shared_classes
from service.jobs import BlobStore, Queue, WorkerCards
from service.settings import Settings
from tests.support.api import CARD, Api, noise, png, running_api, spec_of

FIXED = ("guidance_scale", "guidance_interval", "temperature", "top_k", "top_p")
RASTER = replace(
    CARD,
    name="hand-raster",
    family="llamagen",
    tasks=("generate",),
    settings=FIXED,
    steps=16,
    defaults=Defaults(guidance_scale=2.0),
    classes=CARD.classes[:3],
)
REGIONS = replace(RASTER, name="hand-regions", family="par", steps=7, task_defaults={"generate": {"top_p": 0.5}})

IMAGENET = replace(CARD, name="arpg-l", classes=class_labels(shared_classes("imagenet")))


@pytest.fixture(scope="module")
def three_models(redis_socket: Path) -> Iterator[Api]:
    """A server over a worker with one model and another with two."""
    with running_api(Settings(redis_url=f"unix://{redis_socket}", namespace="several", _env_file=None)) as running:
        running.show_card()
        running.show_card(RASTER, REGIONS, worker="hand-2")
        yield running


@pytest.fixture
def several(three_models: Api) -> Iterator[Api]:
    yield three_models
    three_models.empty()


def refusal(api: Api, **fields: Any) -> tuple[list[str], str, str]:
    """The fields at fault, the first one's message, and the code."""
    response = api.client.post("/v1/generate", json=fields)
    assert response.status_code == 422, response.text
    errors = response.json()["errors"]
    assert len({error["code"] for error in errors}) == 1
    return [error["field"] for error in errors], errors[0]["message"], errors[0]["code"]


def test_each_model_says_what_it_is_and_what_it_takes(several: Api) -> None:
    models = {model["id"]: model for model in several.client.get("/v1/models").json()["models"]}
    assert list(models) == ["hand", "hand-raster", "hand-regions"]
    assert [model["steps"] for model in models.values()] == [None, 16, 7]
    assert [model["tasks"] for model in models.values()] == [list(CARD.tasks), ["generate"], ["generate"]]
    assert models["hand"]["settings"] == list(SETTINGS)
    assert models["hand-raster"]["settings"] == list(FIXED)
    assert models["hand-raster"]["defaults"] == {
        "guidance_scale": 2.0, "guidance_interval": None, "temperature": 1.0, "top_k": 0, "top_p": 1.0
    }  # fmt: skip
    assert models["hand-regions"]["task_defaults"] == {"generate": {"top_p": 0.5}}
    assert models["hand"]["task_defaults"] == {}
    assert models["hand"]["example_prompts"] == []
    for model in models.values():
        assert several.client.get(model["urls"]["self"]).json() == model
        assert several.client.get(model["urls"]["classes"]).json()["total"] == model["classes"]
        assert several.client.get(model["urls"]["palette"]).json()["codes"] == 8
    assert [model["classes"] for model in models.values()] == [8, 3, 3]
    assert several.client.get("/readyz").json()["models"] == list(models)


def test_the_load_of_each_model_adds_up_its_workers_and_the_queue(several: Api) -> None:
    busy = {"pictures": 2, "tokens_per_second": 100.0, "kv_pages": 8, "kv_pages_used": 5}

    async def report(_: Queue, cards: WorkerCards, __: BlobStore) -> None:
        for worker in ("hand-1", "hand-2"):
            await cards.put_load(worker, {"hand": busy})

    several.generate(model="hand")
    several.generate(model="hand")
    several.claim()
    several.queue(report)
    load = several.client.get("/v1/load").json()["models"]
    assert [model["model"] for model in load] == ["hand", "hand-raster", "hand-regions"]
    told = {"pictures": 4, "tokens_per_second": 200.0, "kv_pages": 16, "kv_pages_used": 10}
    assert load[0] == {"model": "hand", "workers": 1, "queued": 1, "running": 1} | told
    assert load[1] == {"model": "hand-raster", "workers": 1, "queued": 0, "running": 0} | dict.fromkeys(told, 0)


def test_a_request_goes_to_the_model_that_it_names(several: Api) -> None:
    for name in ("hand", "hand-raster", "hand-regions"):
        job = several.generate(model=name, **{"class": 1})
        assert (job["model"], job["request"]["model"]) == (name, name)
        claim = several.claim(name)
        assert (claim.id, spec_of(claim).model) == (job["id"], name)
        several.draw(claim)


@pytest.mark.parametrize("fields", [{}, {"model": None}])
def test_without_a_name_the_choice_is_listed(several: Api, fields: dict[str, Any]) -> None:
    said = refusal(several, **fields)
    assert said == (["model"], "name one of the models: hand, hand-raster, hand-regions", "model_needed")


def test_without_a_name_the_only_model_is_meant(api: Api) -> None:
    assert api.generate()["model"] == "hand"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hand-region", "similar names: hand-regions"),
        ("raster", "similar names: hand-raster"),
        ("zzzz", "served now: hand, hand-raster, hand-regions"),
        ("", "served now: hand, hand-raster, hand-regions"),
    ],
)
def test_an_unknown_model_is_answered_with_those_that_may_be_meant(several: Api, name: str, says: str) -> None:
    fields, message, code = refusal(several, model=name)
    assert (fields, code) == (["model"], "unknown_model")
    assert message.startswith("no such model; ")
    assert says in message


def test_a_model_whose_worker_left_is_missed_but_not_unknown(api: Api) -> None:
    api.show_card(RASTER, worker="hand-2")
    api.generate(model="hand-raster")
    api.withdraw_card("hand-2")
    gone = api.client.post("/v1/generate", json={"model": "hand-raster"})
    assert (gone.status_code, gone.json()["code"]) == (503, "no_worker")
    assert int(gone.headers["retry-after"]) >= 1
    for path in ("", "/classes", "/palette"):
        gone = api.client.get(f"/v1/models/hand-raster{path}")
        assert (gone.status_code, gone.json()["code"]) == (503, "no_worker")
        assert int(gone.headers["retry-after"]) >= 1


def test_a_task_that_a_model_cant_do_is_refused_before_anything_else(several: Api) -> None:
    for picture in (png(noise(16, 16)), b"no picture"):
        files = {"image": picture, "mask": png(noise(16, 16))}
        response = several.client.post("/v1/inpaint", data={"model": "hand-raster"}, files=files)
        [error] = response.json()["errors"]
        assert (response.status_code, error["field"], error["code"]) == (422, "model", "task_not_supported")
        assert error["message"] == "hand-raster can't inpaint: it draws in a fixed order; it can generate"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 8), ("schedule", "cosine"), ("content_attention", "causal"), ("order", list(range(16))),
        ("guidance_schedule", "linear"),
    ],
)  # fmt: skip
def test_a_field_that_the_model_does_not_honour_is_refused(several: Api, field: str, value: Any) -> None:
    fields, message, code = refusal(several, model="hand-regions", **{"class": 1, field: value})
    assert (fields, code) == ([field], "setting_not_supported")
    assert message == (
        "hand-regions has no such setting" if field == "guidance_schedule" else
        "hand-regions draws in a fixed order of 7 steps"
    ) + "; it takes guidance_scale, guidance_interval, temperature, top_k, top_p"  # fmt: skip
    assert several.generate(model="hand", **{"class": 1, field: value})["request"][field] == value


def test_all_fields_that_the_model_does_not_honour_are_named(several: Api) -> None:
    fields, _, _ = refusal(several, model="hand-raster", steps=8, schedule="cosine", top_k=3)
    assert fields == ["steps", "schedule"]


def test_what_does_not_apply_is_null_and_the_request_can_be_sent_again(several: Api) -> None:
    job = several.generate(model="hand-raster", **{"class": 1, "guidance_interval": 9, "top_k": 5})
    request = job["request"]
    assert {name: request[name] for name in SETTINGS} == {
        "steps": None, "schedule": None, "guidance_scale": 2.0, "guidance_schedule": None, "guidance_interval": 9,
        "content_attention": None, "temperature": 1.0, "top_k": 5, "top_p": 1.0, "order": None,
    }  # fmt: skip
    claim = several.claim("hand-raster")
    sampling = spec_of(claim).sampling
    assert {name: getattr(sampling, name) for name in SETTINGS} == {name: request[name] for name in SETTINGS}
    assert several.generate(**request)["request"] == request
    assert several.generate(model="hand-raster")["request"]["guidance_scale"] == 1.0  # without a class


def test_a_public_model_is_asked_in_words_or_wordnet_ids(api: Api) -> None:
    api.show_card(IMAGENET, worker="hand-2")
    try:
        for wanted in ("tench", "n01440764", "Tinca tinca", 0):
            job = api.generate(model="arpg-l", **{"class": wanted})
            assert (job["request"]["class"], job["class_name"]) == (0, "tench")
        fields, message, code = refusal(api, model="arpg-l", **{"class": "crane"})
        assert (fields, code) == (["class"], "ambiguous_class")
        assert "crane bird (label 134, n02012849) or construction crane (label 517, n03126707)" in message
        path = "/v1/models/arpg-l/classes"
        tench = {"label": 0, "name": "tench", "synonyms": ["Tinca tinca"], "wordnet_id": "n01440764"}
        for q in ("tench", "n01440764", "TINCA"):
            assert api.client.get(path, params={"q": q}).json() == {"classes": [tench], "total": 1}
        everything = api.client.get(path)
        assert everything.json()["total"] == len(everything.json()["classes"]) == 1000
        assert len(everything.content) < 110_000
    finally:
        api.withdraw_card("hand-2")

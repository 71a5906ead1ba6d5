"""Prompts: which models take them, in which tasks; what is refused and how; what a job tells of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from service.api.bodies import Body
from service.jobs import Claim
from service.jobs.result import JobWarning
from service.jobs.spec import MAX_PROMPT, ClassCondition, NoCondition, TextCondition
from service.settings import Settings
from service.tasks.generate import GenerateRequest
from tests.api.openai.official import asked, next_claim, openai_client
from tests.support.api import CARD, Api, frames, half_mask, noise, png, running_api, spec_of

TEXT = replace(CARD, name="words", conditioning="text", condition_rows=120, classes=())
SHORT = "a purple mug on a green floor"
PICTURE, MASK = png(noise(32, 32)), png(half_mask(32, 32))
LONG = JobWarning(field="prompt", code="truncated", message="the prompt is too long")


@pytest.fixture(scope="module")
def both(redis_socket: Path) -> Iterator[Api]:
    """A server whose worker serves a model of classes and one that takes text."""
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="prompts", _env_file=None)
    with running_api(settings) as api:
        api.show_card(CARD, TEXT)
        yield api


@pytest.fixture
def api(both: Api) -> Iterator[Api]:
    yield both
    both.empty()


@pytest.fixture
def client(api: Api) -> Iterator[OpenAI]:
    with openai_client(api.url) as client:
        yield client


def accepted(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    return job


def generate(api: Api, **fields: Any) -> dict[str, Any]:
    return accepted(api.client.post("/v1/generate", json={"model": "words", **fields}))


def drawn(api: Api, job: dict[str, Any], *warnings: JobWarning) -> tuple[dict[str, Any], Claim]:
    """The job as it is in the end."""
    claim = api.claim(job["model"])
    api.finish(claim, 1, [*spec_of(claim).seeds], warnings=warnings)
    ended: dict[str, Any] = api.client.get(job["urls"]["self"]).json()
    assert ended["status"] == "succeeded"
    return ended, claim


def in_base64(file: bytes) -> str:
    return base64.b64encode(file).decode()


TASKS: dict[str, dict[str, Any]] = {
    "generate": {"json": {}},
    "expand": {"json": {"width": 48, "height": 48}},
    "inpaint": {"data": {}, "files": {"image": PICTURE, "mask": MASK}},
    "outpaint": {"json": {"image": in_base64(PICTURE), "left": 8}},
    "vary": {"data": {}, "files": {"image": PICTURE}},
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_takes_prompts_and_shows_them(api: Api, task: str) -> None:
    texts = {"prompt": SHORT, "negative_prompt": "blurry, “schön” 🐈"}
    sent = {
        name: value | {"model": "words", **texts} if name in ("json", "data") else value
        for name, value in TASKS[task].items()
    }
    job = accepted(api.client.post(f"/v1/{task}", **sent))
    assert {name: job["request"][name] for name in texts} == texts
    assert (job["class_name"], job["request"]["class"], job["request"]["guidance_scale"]) == (None, None, 3.0)
    spec = spec_of(api.claim("words"))
    assert (spec.task, spec.condition) == (task, TextCondition(**texts))


def test_the_request_as_shown_asks_for_the_same_pictures(api: Api) -> None:
    job = generate(api, prompt=SHORT)
    assert "negative_prompt" not in job["request"]
    again = generate(api, **job["request"])
    assert again["request"] == job["request"]


def test_without_a_prompt_a_picture_of_anything_is_drawn(api: Api) -> None:
    for fields in ({}, {"prompt": None}, {"class": None}, {"guidance_scale": 1}):
        job = generate(api, **fields)
        assert ("prompt" not in job["request"], job["request"]["guidance_scale"]) == (True, 1.0)
        assert spec_of(api.claim("words")).condition == NoCondition()


@pytest.mark.parametrize(
    ("model", "fields", "field", "code", "remedy"),
    [
        ("words", {"class": 3}, "class", "class_not_supported", "send prompt, such as the name of the class"),
        ("words", {"class": "3"}, "class", "class_not_supported", "send prompt"),
        ("words", {"class": "n01440764"}, "class", "class_not_supported", "send prompt"),
        ("words", {"class": " _ "}, "class", "class_not_supported", "send prompt"),
        ("words", {"class": "a\0b"}, "class", "class_not_supported", "send prompt"),
        ("words", {"class": "cone", "prompt": SHORT}, "class", "class_not_supported", "leave class out"),
        ("hand", {"prompt": "cone"}, "prompt", "prompt_not_supported", "one of those under /v1/models/hand/classes"),
        ("hand", {"class": 3, "negative_prompt": "x"}, "negative_prompt", "prompt_not_supported", "leave it out"),
        ("words", {"negative_prompt": "x"}, "negative_prompt", "no_prompt", "give a prompt too, or leave this out"),
        (
            "words",
            {"prompt": "x", "negative_prompt": "y", "guidance_scale": 1},
            "negative_prompt",
            "no_guidance",
            "send a guidance_scale other than 1",
        ),
        ("words", {"guidance_scale": 4}, "guidance_scale", "no_prompt", "guidance needs a prompt; give one"),
        ("hand", {"guidance_scale": 4}, "guidance_scale", "no_class", "guidance needs a class; give one"),
        ("words", {"prompt": ""}, "prompt", "blank", "must not be empty; leave it out or null"),
        ("words", {"prompt": "x", "negative_prompt": " \n"}, "negative_prompt", "blank", "must not be empty"),
        ("words", {"prompt": "a\0b"}, "prompt", "nul", "must not contain NUL"),
        ("words", {"prompt": "x" * (MAX_PROMPT + 1)}, "prompt", "string_too_long", f"at most {MAX_PROMPT} characters"),
        ("words", {"prompt": 5}, "prompt", "string_type", "valid string"),
    ],
)  # fmt: skip
def test_what_a_model_does_not_take_is_refused_by_name(
    api: Api, model: str, fields: dict[str, Any], field: str, code: str, remedy: str
) -> None:
    response = api.client.post("/v1/generate", json={"model": model, **fields})
    [error] = response.json()["errors"]
    assert (response.status_code, error["field"], error["code"]) == (422, field, code)
    assert remedy in error["message"]


@pytest.mark.parametrize("task", TASKS)
def test_the_name_of_a_class_is_the_prompt_of_a_model_that_takes_text(api: Api, task: str) -> None:
    names = {"class": " sports_car ", "negative_prompt": "fog"}
    sent = {
        name: value | {"model": "words", **names} if name in ("json", "data") else value
        for name, value in TASKS[task].items()
    }
    job = accepted(api.client.post(f"/v1/{task}", **sent))
    shown = {name: job["request"][name] for name in ("class", "prompt", "negative_prompt")}
    assert shown == {"class": None, "prompt": "sports car", "negative_prompt": "fog"}
    assert spec_of(api.claim("words")).condition == TextCondition(prompt="sports car", negative_prompt="fog")


def test_half_a_character_is_no_text(api: Api) -> None:
    body = b'{"model": "words", "prompt": "a \\ud83d cat"}'
    response = api.client.post("/v1/generate", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("text", ["null", "12", "[1, 2]", '"quoted"', "True", "x" * MAX_PROMPT, "  both ends  "])
def test_a_form_sends_a_prompt_as_it_stands(api: Api, text: str) -> None:
    data = {"model": "words", "prompt": text, "negative_prompt": text}
    accepted(api.client.post("/v1/vary", data=data, files={"image": PICTURE}))
    assert spec_of(api.claim("words")).condition == TextCondition(prompt=text, negative_prompt=text)


def test_lists_and_files_are_named_by_the_prompt(api: Api) -> None:
    names = {}
    for prompt in (SHORT, "Ein Haus " * 30, "房子"):
        job, _ = drawn(api, generate(api, prompt=prompt, seed=7))
        [listed] = api.client.get("/v1/jobs", params={"limit": 1}).json()["jobs"]
        assert (listed["id"], listed["class_name"], listed["prompt"]) == (job["id"], None, prompt)
        names[prompt] = api.client.get(job["images"][0]["url"]).headers["content-disposition"]
    assert names[SHORT] == 'inline; filename="words-a_purple_mug_on_a_green_floor-7.png"'
    assert names["Ein Haus " * 30].startswith('inline; filename="words-Ein_Haus_Ein_Haus_')
    assert len(names["Ein Haus " * 30]) < 100
    assert names["房子"] == 'inline; filename="words-generate-7.png"'
    job, _ = drawn(api, generate(api, **{"model": "hand", "class": "cone"}))
    assert "prompt" not in api.client.get("/v1/jobs", params={"limit": 1}).json()["jobs"][0]


def test_a_fork_keeps_its_parents_prompts(api: Api) -> None:
    texts = {"prompt": SHORT, "negative_prompt": "y"}
    parent, _ = drawn(api, generate(api, **texts))
    job = accepted(api.client.post(f"/v1/jobs/{parent['id']}/fork", json={"step": 1}))
    assert {name: job["request"][name] for name in texts} == texts
    assert spec_of(api.claim("words")).condition == TextCondition(**texts)
    response = api.client.post(f"/v1/jobs/{parent['id']}/fork", json={"step": 1, "prompt": "x"})
    assert [(e["field"], e["message"]) for e in response.json()["errors"]] == [("prompt", "no such field")]


def test_warnings_are_told_by_the_job_and_by_its_last_event(api: Api) -> None:
    queued = generate(api, prompt=SHORT)
    assert queued["warnings"] == []
    job, _ = drawn(api, queued, LONG)
    with api.client.stream("GET", job["urls"]["events"]) as response:
        [*_, last] = frames(response.iter_lines())
    assert job["warnings"] == last["data"]["warnings"] == [LONG.model_dump()]
    quiet, _ = drawn(api, generate(api, prompt=SHORT))
    assert quiet["warnings"] == []


def test_a_picture_alone_tells_its_warnings_in_a_header(api: Api) -> None:
    """They are short enough for a proxy, and in ASCII."""
    strange = JobWarning(field="prompt", code="unknown_words", message="the model does not know “zug”")
    job, _ = drawn(api, generate(api, prompt=SHORT), LONG, strange)
    [told] = api.client.get(job["images"][0]["url"]).headers.get_list("x-warnings")
    assert json.loads(told) == [LONG.model_dump(), strange.model_dump()]
    job, _ = drawn(api, generate(api, prompt=SHORT), strange.model_copy(update={"message": "“x” " * 500}))
    [told] = api.client.get(job["images"][0]["url"]).headers.get_list("x-warnings")
    assert json.loads(told) == [{"field": "prompt", "code": "unknown_words"}]
    job, _ = drawn(api, generate(api, prompt=SHORT))
    assert "x-warnings" not in api.client.get(job["images"][0]["url"]).headers


def test_the_models_say_what_they_take(api: Api) -> None:
    models = api.client.get("/v1/models").json()["models"]
    assert {model["id"]: model["conditioning"] for model in models} == {"hand": "class", "words": "text"}
    assert api.client.get("/v1/models/words/classes").json() == {"classes": [], "total": 0}


def test_openais_prompt_goes_to_either_model(api: Api, client: OpenAI) -> None:
    for model, prompt, more, condition in (
        ("words", SHORT, {"negative_prompt": "fog"}, TextCondition(prompt=SHORT, negative_prompt="fog")),
        ("hand", "cone", {}, ClassCondition(label=3, name="cone")),
    ):
        with asked(client.images.generate, model=model, prompt=prompt, extra_body=more) as answer:
            claim = next_claim(api, model)
            assert spec_of(claim).condition == condition
            api.finish(claim, 1, [*spec_of(claim).seeds], warnings=[LONG] if model == "words" else [])
            told = answer().to_dict(mode="json")
        assert told.get("warnings") == ([LONG.model_dump()] if model == "words" else None)
    for model, fields, param in (
        ("hand", {"negative_prompt": "fog"}, "negative_prompt"),
        ("words", {"class": "cone"}, "class"),
    ):
        body = {"model": model, "prompt": "cone", **fields}
        response = api.client.post("/v1/images/generations", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_repeated_request_without_prompts_is_the_one_that_an_older_server_accepted() -> None:
    """Its digest is stored with the job; another one would refuse the client's retry during an update."""
    fields = GenerateRequest.model_validate({"class": "cone", "seed": 5})
    assert Body.of(fields).digest == "5a562149e5c780319e5dd4ac1766a89efd87d2d8ae592c2de487a43b47a1d602"

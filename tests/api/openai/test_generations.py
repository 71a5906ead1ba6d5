"""The official client draws: what its fields do, and what it gets."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from service.settings import Settings
from tests.api.openai.official import asked, drawn, next_claim, openai_client, opened, pixels
from tests.support.api import CARD, Api, noise, running_api, spec_of
from tests.support.keys import Keyed
from tests.support.waiting import eventually

RASTER = replace(CARD, name="raster", tasks=("generate",), settings=("guidance_scale",), steps=16)


def test_pictures_come_with_their_seeds_and_usage(api: Api, client: OpenAI) -> None:
    before = int(time.time())
    response, claim = drawn(
        api, client.images.generate, prompt="Ball", n=2, extra_body={"seed": 7, "steps": 4, "top_k": 3}
    )
    spec = spec_of(claim)
    assert (spec.task, spec.class_name, spec.n, spec.sampling.steps, spec.sampling.top_k) == (
        "generate",
        "sphere",
        2,
        4,
        3,
    )
    assert response.data is not None
    assert [(pixels(image.b64_json) == noise(32, 32, seed=i)).all() for i, image in enumerate(response.data)] == [
        True
    ] * 2
    assert [image.to_dict()["seed"] for image in response.data] == list(spec.seeds)
    assert spec.seeds[0] == 7
    assert before <= response.created <= int(time.time())
    assert response.usage is not None
    assert response.to_dict(mode="json") | {"data": [], "created": 0} == {
        "created": 0, "data": [], "background": "opaque", "output_format": "png", "quality": "high", "size": "32x32",
        "usage": {
            "input_tokens": 1, "input_tokens_details": {"text_tokens": 1, "image_tokens": 0}, "output_tokens": 16,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": 16}, "total_tokens": 17,
        },
    }  # fmt: skip


def test_each_field_does_what_it_says(api: Api, client: OpenAI) -> None:
    response, claim = drawn(
        api,
        client.images.generate,
        prompt="3",
        model="hand",
        size="48x64",
        quality="low",
        output_format="jpeg",
        output_compression=40,
        background="opaque",
        moderation="low",
        user="u-1",
        extra_body={"method": "ntk"},
    )
    spec = spec_of(claim)
    assert (spec.task, spec.class_label, spec.size, spec.rope_scaling) == ("expand", 3, (64, 48), "ntk")
    assert (spec.sampling.steps, spec.output.format, spec.output.quality) == (CARD.defaults.steps // 4, "jpeg", 40)
    assert response.data is not None
    assert opened(response.data[0].b64_json).format == "JPEG"
    assert (response.size, response.quality, response.output_format) == ("48x64", "low", "jpeg")
    assert response.safety_identifier == "u-1"


@pytest.mark.parametrize(
    "fields", [{}, {"size": "auto", "quality": "auto", "style": None}, {"size": "32x32", "quality": "hd"}]
)
def test_what_is_left_out_is_the_models_own(api: Api, client: OpenAI, fields: dict[str, Any]) -> None:
    _, claim = drawn(api, client.images.generate, prompt="cone", output_format="webp", **fields)
    spec = spec_of(claim)
    assert (spec.task, spec.size, spec.sampling.steps) == ("generate", (32, 32), CARD.defaults.steps)
    assert (spec.output.quality, spec.output.previews) == (100, 0)


def test_an_address_gives_the_picture_without_a_key(keyed: Keyed) -> None:
    with openai_client(keyed.api.url, keyed.texts["bob"]) as client:
        fields = {"prompt": "cone", "n": 2, "response_format": "url", "output_format": "webp"}
        response, _ = drawn(keyed.api, client.images.generate, **fields)
    assert response.data is not None
    for image in response.data:
        assert image.b64_json is None
        assert image.url is not None
        assert image.url.startswith(f"{keyed.api.url}/v1/jobs/")
        got = httpx.get(image.url)
        assert (got.status_code, got.headers["content-type"]) == (200, "image/webp")
        assert httpx.get(image.url.partition("?")[0]).status_code == 401


def test_a_repeat_with_the_same_key_gets_the_same_job(api: Api, client: OpenAI) -> None:
    key = {"Idempotency-Key": "again"}
    call = client.images.with_raw_response.generate
    first, claim = drawn(api, call, prompt="cone", extra_headers=key)
    again = call(prompt="cone", extra_headers=key)
    assert first.headers["x-job-id"] == again.headers["x-job-id"] == claim.id
    assert first.content == again.content
    with pytest.raises(openai.BadRequestError, match="another request was sent with this key"):
        call(prompt="cone", n=2, extra_headers=key)


@pytest.mark.parametrize(("key", "state"), [({}, "canceled"), ({"Idempotency-Key": "later"}, "queued")])
def test_who_leaves_without_a_key_cancels(api: Api, client: OpenAI, key: dict[str, str], state: str) -> None:
    before = unanswered(api)
    with asked(client.with_options(timeout=0.3).images.generate, prompt="cone", extra_headers=key) as answer:
        assert eventually(lambda: bool(waiting(api))), "no job came"
        [id] = waiting(api)
        with pytest.raises(openai.APITimeoutError):
            answer()
    assert eventually(lambda: unanswered(api) > before), "the server has not noticed it"
    assert status(api, id) == state


def unanswered(api: Api) -> float:
    labels = {"method": "POST", "route": "/v1/images/generations", "status": "504"}
    return api.metrics.registry.get_sample_value("arpg_http_requests_total", labels) or 0.0


def waiting(api: Api) -> list[str]:
    async def ids(queue: Any, *_: Any) -> list[str]:
        return [id.decode() for id in await queue.redis.zrange(queue.config.line_key("ready", "hand"), 0, -1)]

    return api.queue(ids)


def status(api: Api, id: str) -> str:
    return str(api.client.get(f"/v1/jobs/{id}").json()["status"])


@pytest.mark.parametrize(
    ("error", "raised", "kind", "param"),
    [
        ({"code": "out_of_memory", "message": "not enough"}, openai.InternalServerError, "server_error", None),
        (
            {"code": "invalid_request", "message": "prompt: not enough", "field": "prompt"},
            openai.BadRequestError, "invalid_request_error", "prompt",
        ),
    ],
)  # fmt: skip
def test_a_failed_job_is_told_once(
    api: Api, error: dict[str, str], raised: type[openai.APIStatusError], kind: str, param: str | None
) -> None:
    with openai_client(api.url, retries=2) as client, asked(client.images.generate, prompt="cone") as answer:
        claim = next_claim(api)
        ended: dict[str, Any] = {"state": "failed", "event": "failed", "data": {"error": error}, "error": error}
        api.queue(lambda queue, _, __: queue.finish(claim.id, claim.attempt, 1, **ended))
        with pytest.raises(raised, match="not enough") as told:
            answer()
    assert (told.value.code, told.value.type, told.value.param) == (error["code"], kind, param)
    assert api.queue(lambda queue, _, __: queue.depth("hand")) == 0


def test_what_takes_too_long_goes_on_and_its_address_is_told(redis_socket: object) -> None:
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="slow", picture_wait=0.1, _env_file=None)
    with running_api(settings) as api, openai_client(api.url, retries=2) as client:
        api.show_card(CARD, RASTER)
        with pytest.raises(openai.APIStatusError, match="the job goes on; follow it at /v1/jobs/") as told:
            client.images.generate(prompt="cone", model="hand")
        assert (told.value.status_code, told.value.code) == (504, "not_done_yet")
        assert api.queue(lambda queue, _, __: queue.depth("hand")) == 1
        assert status(api, told.value.response.headers["x-job-id"]) == "queued"

        # The models, as this client lists them; and what one of a fixed order can't do.
        listed = list(client.models.list())
        assert [(model.id, model.object, model.owned_by) for model in listed] == [
            (name, "model", "arpg-serve") for name in ("hand", "raster")
        ]
        one = client.models.retrieve("raster")
        assert (one.id, one.object, one.created, one.to_dict()["family"]) == ("raster", "model", 0, "arpg")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nobody")
        for fields, message in (
            ({"size": "64x64"}, "size: raster draws 32x32 alone"),
            ({"quality": "low"}, "quality: raster draws in a fixed order of 16 steps"),
            ({"extra_body": {"steps": 4}}, "steps: raster draws in a fixed order"),
        ):
            with pytest.raises(openai.BadRequestError, match=message):
                client.images.generate(prompt="cone", model="raster", **fields)
        with pytest.raises(openai.BadRequestError, match="raster can't inpaint"):
            client.images.edit(image=b"x", prompt="cone", model="raster")
        api.withdraw_card("hand-1")
        with pytest.raises(openai.InternalServerError, match="no worker serves this model") as gone:
            openai_client(api.url).images.generate(prompt="cone", model="hand")
        assert (gone.value.status_code, gone.value.code) == (503, "no_worker")
        refused = {"task": "generate", "outcome": "no_worker", "model": "hand"}
        assert api.metrics.registry.get_sample_value("arpg_requests_total", refused) == 1
        api.empty()


def test_the_models_say_since_when_they_are_served(api: Api, client: OpenAI) -> None:
    served = [{"card": CARD.to_json(), "capacity": {}}]
    card = {"worker": "old", "models": served, "spec": 1, "since": 1_700_000_000.5}
    api.queue(lambda _, cards, __: cards.put("hand-1", card))
    assert eventually(lambda: client.models.retrieve("hand").created == 1_700_000_000)
    [model] = client.models.list().data
    assert model.created == 1_700_000_000

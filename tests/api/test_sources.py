"""`source` in place of an upload: a finished picture, with its own tokens, that outlives the job it came from."""

from __future__ import annotations

import base64
import dataclasses
import time
from typing import Any

import httpx
import numpy as np
import pytest

from service.tasks.pictures.errors import Limits
from service.tasks.pictures.images import decode_image
from tests.api.jobs.test_jobs import finished
from tests.support.api import CARD, Api, noise, png, spec_of

TOKENS = (np.arange(16) % 8).reshape(4, 4).tolist()  # as the hand-driven worker draws them
MASK = np.zeros((32, 32), dtype=np.uint8)
MASK[:, 20:] = 255
EDITS: dict[str, dict[str, Any]] = {
    "inpaint": {"mask": base64.b64encode(png(MASK)).decode()},
    "outpaint": {"down": 8},
    "vary": {"keep": 0.5},
}


def post(api: Api, route: str, job: str, image: Any = 0, **fields: Any) -> httpx.Response:
    return api.client.post(f"/v1/{route}", json=EDITS[route] | fields | {"source": {"job": job, "image": image}})


@pytest.mark.parametrize("route", EDITS)
def test_the_tokens_and_pixels_of_a_finished_picture_are_used_as_they_are(api: Api, route: str) -> None:
    parent = finished(api, n=2)
    response = post(api, route, parent["id"], 1)
    assert response.status_code == 202, response.text
    job = response.json()
    assert job["request"]["source"] == {"job": parent["id"], "image": 1}
    claim = api.claim()
    carried = spec_of(claim).picture_tokens
    if route == "outpaint":  # the picture is encoded as if it went on
        assert carried is None
    else:
        assert carried is not None
        assert np.array_equal(carried, TOKENS)
    ours, theirs = spec_of(claim).blobs["image"], f"{parent['id']}/result/1"
    assert ours != theirs
    files = [api.blob(name) for name in (ours, theirs)]
    assert files[0] == files[1]
    assert np.array_equal(decode_image(files[0] or b"", "image", Limits(10**6, 10**4)), noise(32, 32, seed=1))
    api.queue(lambda _, __, blobs: blobs.delete(theirs))  # as when the parent expires
    assert api.queue(lambda _, __, blobs: blobs.get(ours)) is not None
    api.finish(claim, 1, [*spec_of(claim).seeds])


def test_an_order_for_a_source_goes_by_its_tokens(api: Api) -> None:
    parent = finished(api)
    columns = [2, 3, 6, 7, 10, 11, 14, 15]
    assert post(api, "inpaint", parent["id"], order=columns[1:]).json()["errors"][0]["field"] == "order"
    assert post(api, "inpaint", parent["id"], order=columns).status_code == 202


def test_an_expanded_picture_is_edited_on_its_own_grid(api: Api) -> None:
    response = api.client.post("/v1/expand", json={"class": 1, "width": 64, "height": 40})
    claim = api.claim()
    api.finish(claim, 1, [*spec_of(claim).seeds])
    job = post(api, "vary", response.json()["id"]).json()
    assert (job["width"], job["height"]) == (64, 40)
    claim = api.claim()
    assert ([*spec_of(claim).grid], spec_of(claim).windowed, claim.cost) == ([5, 8], True, 16)
    api.finish(claim, 1, [*spec_of(claim).seeds])
    # Whose mask must have the picture's shape.
    [error] = post(api, "inpaint", response.json()["id"]).json()["errors"]
    assert (error["field"], error["code"]) == ("mask", "shape")


def test_the_model_of_a_source_need_not_be_named(api: Api) -> None:
    parent = finished(api)
    other = dataclasses.replace(CARD, name="other")
    api.show_card(other, worker="hand-2")
    try:
        assert post(api, "vary", parent["id"]).json()["model"] == "hand"
        assert post(api, "vary", parent["id"], model="other").json()["model"] == "other"
    finally:
        api.withdraw_card("hand-2")


def test_a_source_that_cannot_be_used_is_refused_by_what_is_wrong_with_it(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = finished(api)
    long_ago = f"{int(time.time()) - 10**6:08x}-{'0' * 24}"
    waiting = api.generate()

    def refusal(*arguments: Any, **fields: Any) -> tuple[int, str, str]:
        response = post(api, "vary", *arguments, **fields)
        [error] = response.json()["errors"]
        return response.status_code, error["field"], error["code"]

    assert refusal("nobody") == (404, "source.job", "unknown_job")
    assert refusal(long_ago) == (410, "source.job", "expired")
    assert refusal(waiting["id"]) == (409, "source.job", "not_done_yet")
    api.client.delete(waiting["urls"]["cancel"])
    assert refusal(waiting["id"]) == (409, "source.job", "canceled")
    assert refusal(parent["id"], 1) == (422, "source.image", "no_such_image")
    assert refusal(parent["id"], 16) == (422, "source.image", "less_than")
    assert refusal(parent["id"], "0") == (422, "source.image", "int_type")
    strange = dataclasses.replace(CARD, name="strange", tokenizer="s" * 16)
    api.show_card(strange, worker="hand-2")
    try:
        assert refusal(parent["id"], model="strange") == (422, "source.job", "other_tokenizer")
    finally:
        api.withdraw_card("hand-2")
    api.queue(lambda _, __, blobs: blobs.delete(f"{parent['id']}/result/0"))
    assert refusal(parent["id"]) == (410, "source.job", "expired")
    assert api.queue(lambda q, _, __: q.depth("hand")) == 0


def test_a_tokenizer_that_is_not_known_is_not_the_same(api: Api) -> None:
    """An empty fingerprint says nothing."""
    nameless = dataclasses.replace(CARD, name="nameless", tokenizer="")
    api.show_card(nameless, worker="hand-2")
    try:
        api.generate(model="nameless")
        claim = api.claim("nameless")
        api.draw(claim, tokenizer="")
        response = post(api, "vary", claim.id)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (422, "other_tokenizer")
    finally:
        api.withdraw_card("hand-2")

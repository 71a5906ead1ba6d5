"""POST /v1/outpaint, /v1/expand and /v1/vary: what a worker gets, what a client is told, what is refused and how."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest

from engine.editing.masks import kept_cells
from engine.request import Request
from service.tasks.pictures import recipe
from service.tasks.pictures.errors import Limits
from service.tasks.pictures.images import decode_image, encode
from tests.support.api import CARD, Api, noise, png, spec_of

LIMITS = Limits(10**6, 10**4)


def b64(picture: np.ndarray) -> str:
    return base64.b64encode(png(picture)).decode()


def stored(api: Api, name: str) -> bytes:
    data = api.queue(lambda _, __, blobs: blobs.get(name))
    assert data is not None
    return data


def accepted(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    return job


def refused(api: Api, response: httpx.Response, status: int = 422) -> tuple[str, str]:
    assert response.status_code == status, response.text
    assert api.queue(lambda q, _, __: q.depth("hand")) == 0
    [error] = response.json()["errors"]
    return error["field"], error["code"]


# ---- outpaint -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["json", "multipart"])
def test_an_outpainting_is_rounded_up_to_tokens_and_says_so_at_once(api: Api, how: str) -> None:
    picture, asked = noise(20, 30), {"left": 1, "right": 7, "class": "tree", "seed": 3}  # 5 pixels a token
    if how == "json":
        job = accepted(api.client.post("/v1/outpaint", json=asked | {"image": b64(picture)}))
    else:
        texts = {name: str(value) for name, value in asked.items()}
        job = accepted(api.client.post("/v1/outpaint", data=texts, files={"image": png(picture)}))
    assert job["padding"] == {"left": 5, "right": 10, "up": 0, "down": 0}
    assert (job["width"], job["height"], job["task"]) == (45, 20, "outpaint")
    assert {side: job["request"][side] for side in ("left", "right", "up", "down")} == {
        "left": 1, "right": 7, "up": 0, "down": 0
    }  # fmt: skip
    claim = api.claim()
    assert ([*spec_of(claim).grid], spec_of(claim).windowed, claim.cost) == ([4, 9], True, 32)
    assert np.array_equal(decode_image(stored(api, spec_of(claim).blobs["image"]), "image", LIMITS), picture)
    api.finish(claim, 1, [*spec_of(claim).seeds])
    assert api.client.get(job["urls"]["self"]).json()["images"][0]["width"] == 45


@pytest.mark.parametrize(
    ("fields", "field", "code"),
    [
        ({}, "left", "padding"),
        ({"left": 0, "right": 0, "up": 0, "down": 0}, "left", "padding"),
        ({"down": -1}, "down", "greater_than_equal"),
        ({"right": 97}, "right", "padding"),
        ({"up": 40, "left": 40, "right": 56}, "right", "padding"),
        ({"right": 2**17}, "right", "less_than_equal"),
        ({"right": 1.5}, "right", "int_type"),
        ({"left": 8, "order": [0, 1]}, "order", "order"),
        ({"left": 8, "order": [0, 5, 10, 10]}, "order", "order"),
        ({"left": 8, "keep": 0.5}, "keep", "extra_forbidden"),
    ],
)
def test_bad_padding_is_refused_by_its_side(api: Api, fields: dict[str, Any], field: str, code: str) -> None:
    assert refused(api, api.client.post("/v1/outpaint", json={"image": b64(noise(32, 32))} | fields)) == (field, code)


def test_an_order_goes_by_the_whole_canvas(api: Api) -> None:
    order = [15, 0, 10, 5]  # the first of five columns
    accepted(api.client.post("/v1/outpaint", json={"image": b64(noise(32, 32)), "left": 8, "order": order}))
    assert [*(spec_of(api.claim()).sampling.order or ())] == order


# ---- expand ---------------------------------------------------------------------------------------------------------


def test_an_expansion_weighs_its_whole_grid_or_a_window(api: Api) -> None:
    for method, cost in (("ntk", 2 * 48), ("windowed", 2 * 16)):
        fields = {"class": 1, "width": 64, "height": 40, "method": method}
        job = accepted(api.client.post("/v1/expand", json=fields))
        assert (job["width"], job["height"]) == (64, 40)
        assert {name: job["request"][name] for name in fields} == fields
        claim = api.claim()
        assert ([*spec_of(claim).grid], claim.cost) == ([5, 8], cost)
        assert (spec_of(claim).windowed, spec_of(claim).rope_scaling) == (
            (True, None) if method == "windowed" else (False, "ntk")
        )
        api.finish(claim, 1, [*spec_of(claim).seeds])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"width": 64}, "height"), ({"height": 32}, "width"), ({"width": 24, "height": 32}, "width"),
        ({"width": 33, "height": 32}, "width"), ({"width": 136, "height": 40}, "width"),
        ({"width": 32, "height": 136}, "height"), ({"width": "64", "height": 32}, "width"),
        ({"width": 64, "height": 32, "method": "magic"}, "method"),
        ({"width": 40, "height": 32, "order": [*range(19), 18]}, "order"),
        ({"width": 40, "height": 32, "order": [*range(19)], "method": "windowed"}, "order"),
    ],
)  # fmt: skip
def test_a_bad_size_is_refused_by_its_side(api: Api, fields: dict[str, Any], field: str) -> None:
    assert refused(api, api.client.post("/v1/expand", json=fields))[0] == field


# ---- vary -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["json", "multipart"])
def test_a_variation_says_what_it_keeps_and_by_which_seed(api: Api, how: str) -> None:
    picture, fields = noise(50, 70), {"keep": 0.25, "n": 2, "class": "house"}
    if how == "json":
        job = accepted(api.client.post("/v1/vary", json=fields | {"image": b64(picture)}))
    else:
        texts = {name: str(value) for name, value in fields.items()}
        job = accepted(api.client.post("/v1/vary", data=texts, files={"image": png(picture)}))
    request = job["request"]
    assert (request["keep"], request["keep_seed"]) == (0.25, request["seed"])
    assert (job["width"], job["height"]) == (70, 50)
    claim = api.claim()
    assert (spec_of(claim).request["keep_seed"], spec_of(claim).windowed) == (request["seed"], False)
    api.finish(claim, 1, [*spec_of(claim).seeds])
    # Its second picture alone: another seed, the same tokens kept.
    again = {"seed": [*spec_of(claim).seeds][1], "keep_seed": request["seed"], "keep": 0.25, "class": "house"}
    alone = accepted(api.client.post("/v1/vary", json=again | {"image": b64(picture)}))
    assert (alone["request"]["seed"], alone["request"]["keep_seed"]) == (again["seed"], request["seed"])


def test_an_order_names_what_a_variation_does_not_keep(api: Api) -> None:
    drawn = np.flatnonzero(~kept_cells(9, 0.5, CARD.grid)).tolist()
    fields = {"image": b64(noise(32, 32)), "seed": 9}
    assert refused(api, api.client.post("/v1/vary", json=fields | {"order": drawn[1:]})) == ("order", "order")
    accepted(api.client.post("/v1/vary", json=fields | {"order": drawn[::-1]}))


@pytest.mark.parametrize("keep", [0, 1, -0.5, "half"])
def test_all_or_nothing_is_no_variation(api: Api, keep: Any) -> None:
    response = api.client.post("/v1/vary", json={"image": b64(noise(32, 32)), "keep": keep})
    assert refused(api, response)[0] == "keep"


# ---- all ------------------------------------------------------------------------------------------------------------


BAD_FILES = [
    (b"GIF89a", 415, "not_an_image"),
    (png(noise(32, 32))[:60], 422, "damaged"),
    (png(noise(1, 9000)), 413, "too_many_pixels"),
    (b"", 422, "empty"),
]


@pytest.mark.parametrize("route", ["outpaint", "vary"])
@pytest.mark.parametrize(("file", "status", "code"), BAD_FILES)
def test_a_bad_picture_is_refused_whatever_it_is_for(api: Api, route: str, file: bytes, status: int, code: str) -> None:
    data = {"left": "8"} if route == "outpaint" else {}
    response = api.client.post(f"/v1/{route}", data=data, files={"image": file})
    assert refused(api, response, status) == ("image", code)


@pytest.mark.parametrize("route", ["outpaint", "vary", "inpaint"])
def test_what_to_start_from_is_given_once(api: Api, route: str) -> None:
    image, source = b64(noise(32, 32)), {"job": "x"}
    needed: dict[str, dict[str, Any]] = {"outpaint": {"left": 8}, "inpaint": {"mask": image}}
    fields = needed.get(route, {})
    assert refused(api, api.client.post(f"/v1/{route}", json=fields)) == ("image", "missing")
    both = fields | {"image": image, "source": source}
    assert refused(api, api.client.post(f"/v1/{route}", json=both)) == ("source", "two_pictures")
    two = {"image": png(noise(8, 8)), "mask": png(noise(8, 8)), "other": png(noise(8, 8))}
    response = api.client.post(f"/v1/{route}", files=two)
    assert response.status_code in (400, 422)


def test_a_result_too_large_to_keep_is_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.create_job.RESULTS_SHARE", 32 * 64 * 3 / (512 * 2**20))
    expand = {"class": 1, "width": 64, "height": 32}
    accepted(api.client.post("/v1/expand", json=expand))
    api.empty()
    assert refused(api, api.client.post("/v1/expand", json=expand | {"n": 2})) == ("n", "too_large")
    assert refused(api, api.client.post("/v1/expand", json=expand | {"height": 40}), 413) == ("width", "too_large")
    outpaint = {"image": b64(noise(32, 32)), "right": 32}
    accepted(api.client.post("/v1/outpaint", json=outpaint))
    api.empty()
    assert refused(api, api.client.post("/v1/outpaint", json=outpaint | {"right": 33}), 413) == ("image", "too_large")


def test_tokens_of_an_uploads_recipe_reach_the_worker_and_its_text_does_not(api: Api) -> None:
    """Its recipe counts for the very pixels that it was written with; then the worker need not encode them."""
    pixels, tokens = noise(32, 32), np.arange(16, dtype=np.int32).reshape(4, 4) % 8
    text = recipe.write(pixels, tokens, Request(), CARD, class_name=None)
    edited = pixels.copy()
    edited[0, 0] ^= 1
    # An outpainted picture is encoded as if it went on, so its own tokens are not used.
    for route, data, known in (("outpaint", {"left": "8"}, False), ("vary", {}, True)):
        for shown, believed in ((pixels, known), (edited, False)):
            picture = encode(shown, "png", text={recipe.KEYWORD: text, "Comment": "mine"})
            accepted(api.client.post(f"/v1/{route}", data=data, files={"image": picture}))
            claim = api.claim()
            carried = spec_of(claim).picture_tokens
            assert (carried is not None) == believed
            if carried is not None:
                assert np.array_equal(carried, tokens)
            kept_file = stored(api, spec_of(claim).blobs["image"])
            assert recipe.text_of(kept_file) is None
            assert b"mine" not in kept_file
            api.finish(claim, 1, [*spec_of(claim).seeds])

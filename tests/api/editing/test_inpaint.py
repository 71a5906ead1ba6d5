"""POST /v1/inpaint: uploads of every kind reach the worker as they were, or are refused by field."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from service.tasks.pictures.errors import Limits
from service.tasks.pictures.images import decode_image
from tests.support.api import Api, half_mask, noise, png, spec_of
from tests.support.pictures import decode_mask

LIMITS = Limits(10**6, 10**4)


def stored(api: Api, name: str) -> bytes:
    data = api.queue(lambda _, __, blobs: blobs.get(name))
    assert data is not None
    return data


@pytest.mark.parametrize("how", ["json", "data url", "multipart"])
def test_an_upload_reaches_the_worker_as_it_was(api: Api, how: str) -> None:
    image, mask = noise(37, 53), half_mask(37, 53)
    if how == "multipart":
        response = api.client.post(
            "/v1/inpaint",
            data={"class": "tree", "n": "2", "guidance_scale": "1.5", "feather": "3", "seamless": "false", "seed": ""},
            files={"image": ("a.gif", png(image), "image/gif"), "mask": ("m", png(mask))},
        )
    else:
        prefix = "data:image/png;base64," if how == "data url" else ""
        pictures = {name: prefix + base64.b64encode(png(p)).decode() for name, p in (("image", image), ("mask", mask))}
        fields = {"class": "tree", "n": 2, "guidance_scale": 1.5, "feather": 3, "seamless": False}
        response = api.client.post("/v1/inpaint", json=fields | pictures)
    assert response.status_code == 202, response.text
    request = response.json()["request"]
    assert (request["class"], request["n"], request["feather"], request["mask_mode"]) == (6, 2, 3, "white")
    assert request["seamless"] is False
    claim = api.claim()
    assert np.array_equal(decode_image(stored(api, spec_of(claim).blobs["image"]), "image", LIMITS), image)
    assert np.array_equal(decode_mask(stored(api, spec_of(claim).blobs["mask"]), "mask", "white", LIMITS), mask > 0)
    api.draw(claim)


def test_the_pictures_own_transparency_can_be_the_mask(api: Api) -> None:
    rgba = np.dstack([noise(16, 16), 255 - half_mask(16, 16)])
    response = api.client.post("/v1/inpaint", data={"mask_mode": "alpha"}, files={"image": png(rgba)})
    assert response.status_code == 202, response.text
    claim = api.claim()
    mask = decode_mask(stored(api, spec_of(claim).blobs["mask"]), "mask", "white", LIMITS)
    assert np.array_equal(mask, half_mask(16, 16) > 0)
    api.draw(claim)


def test_an_inpainting_order_names_the_tokens_that_the_mask_touches(api: Api) -> None:
    files = {"image": png(noise(32, 32)), "mask": png(half_mask(32, 32))}
    left = [1, 0, 4, 5, 9, 8, 12, 13]
    assert api.client.post("/v1/inpaint", data={"order": "1,0,4"}, files=files).json()["errors"][0]["code"] == "order"
    response = api.client.post("/v1/inpaint", data={"order": ",".join(map(str, left))}, files=files)
    assert response.status_code == 202, response.text
    claim = api.claim()
    assert [*(spec_of(claim).sampling.order or ())] == left
    api.draw(claim)


GOOD = {"image": png(noise(16, 16)), "mask": png(half_mask(16, 16))}


@pytest.mark.parametrize(
    ("files", "data", "status", "field", "code"),
    [
        ({"image": b"not a picture", "mask": GOOD["mask"]}, {}, 415, "image", "not_an_image"),
        ({"image": GOOD["image"], "mask": GOOD["mask"][:45]}, {}, 422, "mask", "damaged"),
        ({"image": GOOD["image"], "mask": png(half_mask(16, 15))}, {}, 422, "mask", "shape"),
        ({"image": GOOD["image"], "mask": png(np.zeros((16, 16), np.uint8))}, {}, 422, "mask", "empty_mask"),
        ({"image": GOOD["image"], "mask": png(np.full((16, 16), 255, np.uint8))}, {}, 422, "mask", "full_mask"),
        ({"image": GOOD["image"]}, {}, 422, "mask", "missing"),
        ({"mask": GOOD["mask"]}, {}, 422, "image", "missing"),
        ({"image": GOOD["image"]}, {"mask_mode": "alpha"}, 422, "image", "no_alpha"),
        ({"mask": GOOD["mask"]}, {"image": "photo.png"}, 422, "image", "file_needed"),
        (GOOD, {"n": "many"}, 422, "n", "int_type"),
        (GOOD, {"colour": "red"}, 422, "colour", "extra_forbidden"),
        (GOOD, {"class": "shpere"}, 422, "class", "unknown_class"),
        ({"image": png(noise(1, 9000)), "mask": GOOD["mask"]}, {}, 413, "image", "too_many_pixels"),
    ],
)
def test_a_bad_upload_is_refused_by_field_and_nothing_is_queued(
    api: Api, files: dict[str, bytes], data: dict[str, str], status: int, field: str, code: str
) -> None:
    response = api.client.post("/v1/inpaint", data=data, files=files)
    assert response.status_code == status, response.text
    assert [(error["field"], error["code"]) for error in response.json()["errors"]] == [(field, code)]
    assert api.queue(lambda q, _, __: q.depth("hand")) == 0


def test_a_field_that_is_there_twice_is_refused(api: Api) -> None:
    twice = [("image", GOOD["image"]), ("mask", GOOD["mask"]), ("mask", GOOD["image"])]
    for response in (
        api.client.post("/v1/inpaint", files=twice[:2] + twice[1:2], data={}),
        api.client.post("/v1/inpaint", files=GOOD, data={"n": ["1", "2"]}),
    ):
        assert (response.status_code in (400, 422), "errors" in response.json()) == (True, response.status_code == 422)
    assert response.json()["errors"][0]["field"] == "n"

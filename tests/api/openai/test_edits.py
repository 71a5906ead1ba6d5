"""The official client edits: which part of the picture is drawn again, and which picture comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI

from service.api.openai.schemas import ImagesRequest
from service.api.openai.translation import EDIT, GENERATION, translated
from tests.api.openai.official import drawn, next_claim, pixels
from tests.support.api import CARD, Api, noise, png, spec_of

PICTURE = noise(32, 32, seed=4)


def with_alpha(picture: np.ndarray, transparent: np.ndarray) -> bytes:
    """transparent: bool (H, W)."""
    return png(np.dstack([picture, np.where(transparent, 0, 255).astype(np.uint8)]))


def left(height: int = 32, width: int = 32) -> np.ndarray:
    return np.broadcast_to(np.arange(width) < width // 2, (height, width))


MASK = with_alpha(np.zeros((32, 32, 3), dtype=np.uint8), left())


@pytest.mark.parametrize("listed", [False, True])
def test_the_transparent_part_of_the_mask_is_drawn_again(api: Api, client: OpenAI, listed: bool) -> None:
    image: Any = png(PICTURE)
    response, claim = drawn(
        api,
        client.images.edit,
        image=[image] if listed else image,
        mask=MASK,
        prompt="5",
        n=2,
        size="32x32",
        input_fidelity="high",
        quality="medium",
        extra_body={"seed": 3, "feather": 2, "temperature": 0.5, "guidance_schedule": "constant"},
    )
    spec = spec_of(claim)
    assert (spec.task, spec.class_label, spec.seeds[0], spec.n, spec.sampling.steps) == ("inpaint", 5, 3, 2, 4)
    assert (spec.sampling.temperature, spec.sampling.guidance_schedule) == (0.5, "constant")
    assert (spec.fixed_cells == [[False, False, True, True]] * 4).all()
    assert spec.compose is not None
    assert spec.compose.model_dump(include={"feather"}) == {"feather": 2}
    assert response.data is not None
    assert len(response.data) == 2
    assert response.size == "32x32"


def test_quality_takes_a_share_of_the_steps_of_inpainting() -> None:
    card = replace(CARD, task_defaults={"inpaint": {"steps": 12}})
    wanted = ImagesRequest(prompt="5", quality="medium")
    assert [translated(wanted, face, card)[1].steps for face in (GENERATION, EDIT)] == [4, 6]


def test_a_picture_may_be_its_own_mask_of_any_size(api: Api, client: OpenAI) -> None:
    stream = client.images.edit(
        image=with_alpha(noise(20, 12), left(20, 12)), prompt="tree", stream=True, partial_images=1
    )
    claim = next_claim(api)
    spec = spec_of(claim)
    assert (spec.size, spec.fixed_cells.tolist()) == ((20, 12), [[False, False, True, True]] * 4)
    assert spec.output.previews == 4  # eight cells are drawn, one a step
    api.draw(claim)
    partial, last = stream
    assert (partial.type, last.type) == ("image_edit.partial_image", "image_edit.completed")
    assert (partial.size, last.size) == ("12x20", "12x20")
    # Half drawn: the kept half, and what the worker drew first, which is the upper half here.
    shown = (pixels(partial.b64_json) == pixels(last.b64_json)).all(2)
    assert shown[:10].all()
    assert shown[:, 6:].all()
    assert not shown[10:, :6].any()


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"image": [png(PICTURE), png(PICTURE)]}, "image", "send one picture: the models can't combine several"),
        ({"image": [png(PICTURE)] * 16}, "image", "send one picture"),
        ({"mask": openai.omit}, "mask", "is needed: a PNG whose transparent part is drawn again"),
        ({"mask": png(PICTURE)}, "mask", "this picture has no transparency"),
        ({"mask": with_alpha(noise(32, 16), left(32, 16))}, "mask", "another shape"),
        ({"image": b"no picture"}, "image", "not a PNG, JPEG or WebP picture"),
        ({"size": "64x64"}, "size", "an edit has the size of its picture, 32x32"),
        ({"markup": MASK}, "markup", "send a mask"),
        ({"input_fidelity": "low"}, "input_fidelity", "'high'"),
        ({"prompt": "zebra crossing"}, "prompt", "the model has no such class"),
        ({"extra_body": {"keep": 0.5}}, "keep", "no such field"),
        ({"svg": {"model": "x"}}, "svg[model]", "no such field"),
    ],
)
def test_what_can_t_be_edited_is_said(
    api: Api, client: OpenAI, fields: dict[str, Any], param: str, message: str
) -> None:
    sent: dict[str, Any] = {"image": png(PICTURE), "mask": MASK, "prompt": "tree"} | fields
    with pytest.raises(openai.APIStatusError, match=message) as told:
        client.images.edit(**sent)
    assert told.value.status_code == (415 if fields == {"image": b"no picture"} else 400)
    assert (told.value.type, told.value.param) == ("invalid_request_error", param)
    assert api.queue(lambda queue, _, __: queue.depth("hand")) == 0


def test_a_form_without_a_picture_or_with_json_is_told_what_to_send(api: Api) -> None:
    path = "/v1/images/edits"
    json = api.client.post(path, json={"prompt": "tree"})
    assert (json.status_code, json.json()["error"]["code"]) == (415, "unsupported_media_type")
    form = api.client.post(path, data={"prompt": "tree"}, files={"mask": MASK})
    assert (form.status_code, form.json()["error"]["param"]) == (400, "image")

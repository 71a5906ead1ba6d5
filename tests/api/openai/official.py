"""The official client of OpenAI's API, against a server whose worker a test drives."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from openai import OpenAI
from PIL import Image

from service.jobs import Claim
from tests.support.api import Api, half_mask, noise, png
from tests.support.waiting import PATIENCE, eventually

T = TypeVar("T")


def openai_client(url: str, key: str = "none", retries: int = 0) -> OpenAI:
    return OpenAI(base_url=f"{url.rstrip('/')}/v1", api_key=key, max_retries=retries, timeout=PATIENCE)


@contextmanager
def asked(call: Callable[..., T], **fields: Any) -> Iterator[Callable[[], T]]:
    """The call waits for its answer in a thread; what this gives returns or raises it."""
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(call, **fields)
        yield lambda: answer.result(PATIENCE)


def next_claim(api: Api, model: str = "hand") -> Claim:
    """Of the job that a request is about to make."""
    assert eventually(lambda: api.queue(lambda queue, _, __: queue.depth(model)) > 0), "no job came"
    return api.claim(model)


def drawn(api: Api, call: Callable[..., T], **fields: Any) -> tuple[T, Claim]:
    """What the call returns once its job is drawn, and the job."""
    with asked(call, **fields) as answer:
        claim = next_claim(api)
        api.draw(claim)
        return answer(), claim


def opened(b64_json: str | None) -> Image.Image:
    assert b64_json is not None
    return Image.open(io.BytesIO(base64.b64decode(b64_json)))


def pixels(b64_json: str | None) -> np.ndarray:
    return np.asarray(opened(b64_json).convert("RGB"))


def draws_and_edits(client: OpenAI) -> None:
    """With a server whose only model is `random`."""
    assert [model.id for model in client.models.list()] == ["random"]
    response = client.images.generate(prompt="class 3", extra_body={"seed": 1, "steps": 8})
    assert response.data is not None
    whole = client.images.generate(prompt="3", stream=True, partial_images=3, extra_body={"seed": 1, "steps": 8})
    *partial, last = whole
    assert 1 <= len(partial) <= 3
    assert {(event.type, event.size) for event in partial} == {("image_generation.partial_image", "16x16")}
    assert (pixels(last.b64_json) == pixels(response.data[0].b64_json)).all()

    picture, mask = noise(50, 70), half_mask(50, 70)
    transparent = png(np.dstack([picture, 255 - mask]))
    edited = client.images.edit(image=png(picture), mask=transparent, prompt="class 1", extra_body={"seamless": False})
    assert edited.data is not None
    painted = pixels(edited.data[0].b64_json)
    assert np.array_equal(painted[mask == 0], picture[mask == 0])
    assert not np.array_equal(painted[mask > 0], picture[mask > 0])
    assert edited.usage is not None
    assert (edited.usage.input_tokens_details.image_tokens, edited.usage.output_tokens) == (32, 32)
    partial_image, _ = client.images.edit(image=transparent, prompt="class 1", stream=True, partial_images=1)
    assert (partial_image.type, partial_image.size) == ("image_edit.partial_image", "70x50")

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
from tests.support.api import Api
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

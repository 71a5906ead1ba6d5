"""The fields of the requests, as keyword arguments. What is left out takes the model's default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

Priority = Literal["low", "normal", "high"]


class Options(TypedDict, total=False):
    """How a request is sent; these are headers.

    idempotency_key: requests with the same key make one job; the client chooses one if there is none.
    start_timeout: if no worker has begun after so many seconds, the job fails with `start_timeout`.
    webhook_url: is called when the job has ended, if the server allows its host.
    """

    idempotency_key: str
    start_timeout: float
    webhook_url: str


class GenerateFields(Options, total=False):
    """class_: a label, name, synonym or WordNet id. prompt, negative_prompt: in words, for models that take text.
    The other fields: docs/api.md, or /docs of a server."""

    model: str | None
    class_: int | str | None
    prompt: str | None
    negative_prompt: str | None
    n: int
    seed: int | None
    steps: int | None
    schedule: Literal["arccos", "cosine"] | None
    guidance_scale: float | None
    guidance_schedule: Literal["constant", "linear"] | None
    guidance_interval: int | None
    content_attention: Literal["blockwise", "causal"] | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    order: Sequence[int] | None
    previews: int
    format: Literal["png", "jpeg", "webp"]
    quality: int
    priority: Priority


class ExpandFields(GenerateFields, total=False):
    method: Literal["extrapolate", "interpolate", "ntk", "windowed"] | None


class InpaintFields(GenerateFields, total=False):
    """feather: pixels."""

    mask_mode: Literal["white", "black", "alpha", "nonzero"]
    feather: int
    seamless: bool


class OutpaintFields(GenerateFields, total=False):
    """left, right, up, down: pixels to add."""

    left: int
    right: int
    up: int
    down: int
    seamless: bool


class VaryFields(GenerateFields, total=False):
    """keep: the share of the picture's tokens to keep. keep_seed: selects them."""

    keep: float
    keep_seed: int | None


class ForkFields(Options, total=False):
    n: int
    image_index: int
    seed: int | None
    priority: Priority

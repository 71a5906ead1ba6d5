"""The request fields that tasks share: bounds and defaults.

Validation is strict: a wrong type and an unknown field are refused. Null takes the model's default.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.request import MAX_SEED, MAX_STEPS
from service.auth.keys import Priority
from service.tasks.pictures.images import Format

MAX_IMAGES = 16
MAX_PIXELS = 2**16
"""The longest side that a request may name; the plan checks it against the model's card."""


class TaskFields(BaseModel):
    """The fields of every task that creates a job from a class."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = Field(None, max_length=200, description="Needed where there are several")
    class_: int | Annotated[str, Field(max_length=200)] | None = Field(
        None, alias="class", description="A label, a name or a synonym; null draws without a class"
    )
    n: int = Field(1, ge=1, le=MAX_IMAGES, description="How many pictures")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Null: a random one, which is returned")
    steps: int | None = Field(None, ge=1, le=MAX_STEPS, description="Forward steps for the whole picture")
    schedule: Literal["arccos", "cosine"] | None = Field(None, description="How tokens spread over the steps")
    guidance_scale: float | None = Field(
        None, ge=0, le=100, allow_inf_nan=False, description="1: no guidance, half the work"
    )
    guidance_schedule: Literal["constant", "linear"] | None = None
    guidance_interval: int | None = Field(
        None, ge=0, le=2**16, description="Guidance stops once this many tokens are drawn"
    )
    content_attention: Literal["blockwise", "causal"] | None = Field(
        None,
        description="Attention among the tokens of one step: to all (blockwise), or to earlier ones only (causal)",
    )
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False, description="0: argmax")
    top_k: int | None = Field(None, ge=0, le=2**20, description="0: off")
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False, description="1: off")
    order: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        max_length=2**16,
        description="The grid positions to draw, row-major, in order; null: from the seed",
    )
    previews: int = Field(0, ge=0, le=MAX_STEPS, description="A decoded preview every so many steps; 0: none")
    format: Format = "png"
    quality: int = Field(90, ge=1, le=100, description="For JPEG and WebP")
    priority: Priority = Field("normal", description="Among the client's own jobs; high only where its key allows it")


SEAMLESS = Field(True, description="Shift the colours of what is drawn so that they meet those of the picture")


class Source(BaseModel):
    """A finished picture that this server still keeps."""

    model_config = ConfigDict(extra="forbid", strict=True)

    job: str = Field(min_length=1, max_length=64)
    image: int = Field(0, ge=0, lt=MAX_IMAGES, description="Which of the job's pictures, from 0")


class Pictured(BaseModel):
    """What a request in JSON starts from: an upload or a source."""

    image: str | None = Field(None, min_length=1, description="PNG, JPEG or WebP as base64, or as a data: URL")
    source: Source | None = Field(
        None, description="In place of image: a finished picture, whose tokens are used as they are"
    )


class Upload(BaseModel):
    """What a form starts from."""

    image: bytes = Field(description="PNG, JPEG or WebP")

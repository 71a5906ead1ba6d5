"""The request fields that tasks share: bounds and defaults.

Validation is strict: a wrong type and an unknown field are refused. Null takes the model's default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from engine.request import MAX_SEED, MAX_STEPS
from service.auth.keys import Priority
from service.jobs.spec import MAX_PROMPT
from service.tasks.pictures.images import Format

MAX_IMAGES = 16
MAX_PIXELS = 2**16
"""The longest side that a request may name; the plan checks it against the model's card."""

SEED = "The same seed draws the same pictures again; null: a random seed, which the result shows"


def _refuse_negative(remedy: str) -> BeforeValidator:
    """In other services a seed of −1 means random."""

    def check(seed: Any) -> Any:
        if isinstance(seed, int) and seed < 0:
            raise PydanticCustomError("greater_than_equal", f"must be between 0 and {MAX_SEED}; {remedy}")
        return seed

    return BeforeValidator(check)


_INT64: dict[str, Any] = {"type": "integer", "format": "int64", "minimum": 0}
"""The format says the maximum. FastAPI would write it as a float, and so one too large."""
_OPTIONAL = WithJsonSchema({"anyOf": [_INT64, {"type": "null"}]})
_BOUNDS = Field(ge=0, le=MAX_SEED)

Seed = Annotated[int | None, _BOUNDS, _refuse_negative("leave it out or null for random"), _OPTIONAL]
KeepSeed = Annotated[int | None, _BOUNDS, _refuse_negative("leave it out or null to use the seed"), _OPTIONAL]
ShownSeed = Annotated[int, WithJsonSchema(_INT64)]
PRIORITY = "Orders the client's own jobs; high needs a key that allows it"


def _written(prompt: str | None) -> str | None:
    if prompt is not None and not prompt.strip():
        raise PydanticCustomError("blank", "must not be empty; leave it out or null to draw without it")
    if prompt is not None and "\0" in prompt:
        raise PydanticCustomError("nul", "must not contain NUL, the character 0; leave it out of the text")
    return prompt


Prompt = Annotated[str | None, Field(max_length=MAX_PROMPT), AfterValidator(_written)]


def _absent(prompt: str | None) -> bool:
    return prompt is None


class TaskFields(BaseModel):
    """The fields of every task that creates a job from a class or a prompt."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = Field(
        None, max_length=200, description="The model's name; needed where the server has several models"
    )
    class_: int | Annotated[str, Field(max_length=200)] | None = Field(
        None,
        alias="class",
        description="A label, a name, a synonym or a WordNet id; null draws without a class. "
        "For a model that takes text, a name is its prompt",
    )
    # A prompt that is left out is not written: a request to a model of classes is the same request as ever, whose
    # idempotency key holds over an update of the service.
    prompt: Prompt = Field(
        None,
        exclude_if=_absent,
        description="What to draw, in words: for models that take text (conditioning), in place of a class. Null: draw "
        "without a prompt",
    )
    negative_prompt: Prompt = Field(
        None, exclude_if=_absent, description="What guidance leads away from, in words. Null: from any picture"
    )
    n: int = Field(1, ge=1, le=MAX_IMAGES, description="How many pictures to draw")
    seed: Seed = Field(None, description=SEED)
    steps: int | None = Field(None, ge=1, le=MAX_STEPS, description="In how many steps each picture is drawn")
    schedule: Literal["arccos", "cosine"] | None = Field(
        None, description="The curve by which the number of tokens grows from step to step"
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="How strongly the class or prompt steers the picture; 1: no guidance, half the work",
    )
    guidance_schedule: Literal["constant", "linear"] | None = Field(
        None, description="Whether the guidance scale is constant, or grows with the share of drawn tokens"
    )
    guidance_interval: int | None = Field(
        None, ge=0, le=2**16, description="Guidance stops once this many tokens are drawn"
    )
    content_attention: Literal["blockwise", "causal"] | None = Field(
        None,
        description="Attention among the tokens of one step: to all (blockwise), or to earlier ones only (causal)",
    )
    temperature: float | None = Field(
        None, ge=0, le=100, allow_inf_nan=False, description="How random each token is; 0: the most likely token"
    )
    top_k: int | None = Field(
        None, ge=0, le=2**20, description="Draw each token from the k most likely ones; 0: from all"
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Draw each token from the most likely ones, up to this total probability; 1: from all",
    )
    order: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        max_length=2**16,
        fail_fast=True,  # else a list of nonsense has 65,536 errors, which take long to make
        description="The grid positions to draw, row-major from 0, in drawing order; null: an order made from the seed",
    )
    previews: int = Field(0, ge=0, le=MAX_STEPS, description="Send a preview every so many steps; 0: none")
    format: Format = Field("png", description="The file format of the pictures")
    quality: int = Field(90, ge=1, le=100, description="The quality of JPEG and WebP files")
    priority: Priority = Field("normal", description=PRIORITY)


SEAMLESS = Field(True, description="Shift the colours of the drawn part to meet those of the picture around it")


class Source(BaseModel):
    """A finished picture that this server has drawn and still stores."""

    model_config = ConfigDict(extra="forbid", strict=True)

    job: str = Field(min_length=1, max_length=64)
    image: int = Field(0, ge=0, lt=MAX_IMAGES, description="Which of the job's pictures, from 0")


class Pictured(BaseModel):
    """What a request in JSON starts from: an upload or a source."""

    image: str | None = Field(None, min_length=1, description="PNG, JPEG or WebP as base64, or as a data: URL")
    source: Source | None = Field(
        None, description="A stored picture, in place of image. Its tokens are used unchanged"
    )


class Upload(BaseModel):
    """What a form starts from."""

    image: bytes = Field(description="PNG, JPEG or WebP")

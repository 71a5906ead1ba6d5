"""What a client sends: the fields, their bounds and their defaults.

Strict: a wrong type is refused, not coerced, and so is a field that does not exist. What is null here takes
the model's default.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.request import MAX_SEED, MAX_STEPS
from service.auth.keys import Priority
from service.tasks.images import Format, MaskMode

MAX_IMAGES = 16
MAX_PIXELS = 2**16
"""A side of what is asked for; what fits a model is checked against its card."""

Method = Literal["extrapolate", "interpolate", "ntk", "windowed"]

DEFAULT_KEEP = 0.5


class GenerateRequest(BaseModel):
    """Draw pictures of a class."""

    model_config = ConfigDict(extra="forbid", strict=True, title="Generate")

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
        None, ge=0, le=2**16, description="Guided while fewer than so many tokens are drawn"
    )
    content_attention: Literal["blockwise", "causal"] | None = Field(
        None, description="What the tokens of one step see of each other: all, or the earlier ones alone"
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


class ExpandRequest(GenerateRequest):
    """Draw a class on a grid larger than the model was trained on."""

    model_config = ConfigDict(title="Expand")

    width: int = Field(ge=1, le=MAX_PIXELS, description="Pixels: whole tokens, at least the model's own")
    height: int = Field(ge=1, le=MAX_PIXELS, description="Likewise; the whole may have 4 times the model's own tokens")
    method: Method | None = Field(
        None,
        description="How positions beyond the trained grid are told to the model: as they are (extrapolate), squeezed "
        "into it (interpolate), or each frequency as it can bear (ntk); or not at all, window after window (windowed). "
        "Null: interpolate, but windowed where the shape is far from the model's",
    )


SEAMLESS = Field(True, description="Shift the colours of what is drawn so that they meet those of the picture")


class InpaintFields(GenerateRequest):
    """What inpainting adds, apart from the pictures themselves."""

    mask_mode: MaskMode = Field(
        "white", description="Which part of the mask is repainted: white, black, or transparent (alpha)"
    )
    feather: int = Field(0, ge=0, le=256, description="Pixels over which the mask's border is blended; 0: hard")
    seamless: bool = SEAMLESS


class OutpaintFields(GenerateRequest):
    """What outpainting adds: how much, in pixels of the picture; it is rounded up to whole tokens."""

    left: int = Field(0, ge=0, le=MAX_PIXELS)
    right: int = Field(0, ge=0, le=MAX_PIXELS)
    up: int = Field(0, ge=0, le=MAX_PIXELS)
    down: int = Field(0, ge=0, le=MAX_PIXELS)
    seamless: bool = SEAMLESS


class VaryFields(GenerateRequest):
    """What a variation adds."""

    keep: float = Field(
        DEFAULT_KEEP, gt=0, lt=1, allow_inf_nan=False, description="Share of the picture's tokens that is kept"
    )
    keep_seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Says which ones, the same for all n pictures; null: the seed does"
    )


class Source(BaseModel):
    """A picture that this server has drawn, and still keeps."""

    model_config = ConfigDict(extra="forbid", strict=True)

    job: str = Field(min_length=1, max_length=64)
    image: int = Field(0, ge=0, lt=MAX_IMAGES, description="Which of the job's pictures, from 0")


class Pictured(BaseModel):
    """What a request in JSON starts from: an upload or a source."""

    image: str | None = Field(None, min_length=1, description="PNG, JPEG or WebP as base64, or as a data: URL")
    source: Source | None = Field(
        None, description="In place of image: a finished picture, whose tokens are used as they are"
    )


class InpaintRequest(InpaintFields, Pictured):
    """Redraw a part of a picture. With another class than the picture's, this edits."""

    model_config = ConfigDict(title="Inpaint")

    mask: str | None = Field(
        None,
        min_length=1,
        description="As large as the picture. With mask_mode alpha it may be left out: the picture's own "
        "transparency counts",
    )


class OutpaintRequest(OutpaintFields, Pictured):
    """Draw on beyond the borders of a picture."""

    model_config = ConfigDict(title="Outpaint")


class VaryRequest(VaryFields, Pictured):
    """Draw a picture anew around some of its tokens."""

    model_config = ConfigDict(title="Vary")


class _Upload(BaseModel):
    image: bytes = Field(description="PNG, JPEG or WebP")


class InpaintForm(InpaintFields, _Upload):
    """The same as multipart/form-data, the pictures as files."""

    model_config = ConfigDict(title="InpaintForm")

    mask: bytes | None = Field(None, description="As large as the picture")


class OutpaintForm(OutpaintFields, _Upload):
    """The same as multipart/form-data, the picture as a file."""

    model_config = ConfigDict(title="OutpaintForm")


class VaryForm(VaryFields, _Upload):
    """The same as multipart/form-data, the picture as a file."""

    model_config = ConfigDict(title="VaryForm")


class ForkRequest(BaseModel):
    """Go on from a step of a picture, as something else."""

    model_config = ConfigDict(extra="forbid", strict=True, title="Fork")

    step: int = Field(ge=1, le=2**16, description="The new pictures share the first so many steps")
    n: int = Field(1, ge=1, le=MAX_IMAGES, description="How many new pictures")
    image_index: int = Field(0, ge=0, lt=MAX_IMAGES, description="Which of the job's pictures, from 0")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Null: a random one, which is returned")
    priority: Priority = "normal"

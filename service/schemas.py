"""What a client sends and gets: the fields, their bounds and their defaults.

Strict: a wrong type is refused, not coerced, and so is a field that does not exist. What is null here takes
the model's default.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.request import MAX_SEED, MAX_STEPS
from service.images import Format, MaskMode

MAX_IMAGES = 16

Task = Literal["generate", "inpaint"]
Status = Literal["queued", "running", "succeeded", "failed", "canceled"]


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


class InpaintFields(GenerateRequest):
    """What inpainting adds, apart from the pictures themselves."""

    mask_mode: MaskMode = Field(
        "white", description="Which part of the mask is repainted: white, black, or transparent (alpha)"
    )
    feather: int = Field(0, ge=0, le=256, description="Pixels over which the mask's border is blended; 0: hard")


class InpaintRequest(InpaintFields):
    """Redraw a part of a picture. With another class than the picture's, this edits."""

    model_config = ConfigDict(title="Inpaint")

    image: str = Field(min_length=1, description="PNG, JPEG or WebP as base64, or as a data: URL")
    mask: str | None = Field(
        None,
        min_length=1,
        description="As large as the picture. With mask_mode alpha it may be left out: the picture's own "
        "transparency counts",
    )


class InpaintForm(InpaintFields):
    """The same as multipart/form-data, the pictures as files."""

    model_config = ConfigDict(title="InpaintForm")

    image: bytes = Field(description="PNG, JPEG or WebP")
    mask: bytes | None = Field(None, description="As large as the picture")


def _absent(value: object) -> bool:
    return value is None


class ResolvedRequest(BaseModel):
    """The request with every default filled in: sent again, it draws the same pictures. Null: does not apply to the
    model, or is as when left out."""

    model: str
    class_: int | None = Field(alias="class")
    n: int
    seed: int
    steps: int | None
    schedule: str | None
    guidance_scale: float | None
    guidance_schedule: str | None
    guidance_interval: int | None = None
    content_attention: str | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    order: list[int] | None
    previews: int
    format: Format
    quality: int
    mask_mode: MaskMode | None = Field(None, exclude_if=_absent)
    feather: int | None = Field(None, exclude_if=_absent)


class JobImage(BaseModel):
    url: str
    seed: int = Field(description="Draws this picture alone, as n=1")
    width: int
    height: int


class JobError(BaseModel):
    code: str
    message: str


class JobUrls(BaseModel):
    self: str
    events: str
    cancel: str


class JobObject(BaseModel):
    """A job, from its acceptance until it expires."""

    id: str
    task: Task
    status: Status
    position: int | None = Field(description="Jobs ahead of it; null when it is not queued")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(description="When the job, its events and its pictures are forgotten")
    model: str
    class_name: str | None
    request: ResolvedRequest
    images: list[JobImage]
    mask_tokens: list[list[int]] | None = Field(
        None, exclude_if=_absent, description="Inpainting: the mask snapped to the token grid"
    )
    error: JobError | None
    urls: JobUrls
    timings: dict[str, float]
    usage: dict[str, int]


class ClassObject(BaseModel):
    label: int
    name: str
    synonyms: list[str]


class ModelObject(BaseModel):
    """A model that a live worker serves."""

    id: str
    family: str
    description: str
    licence: str
    tasks: list[str]
    grid: tuple[int, int] = Field(description="Rows and columns of tokens")
    width: int
    height: int
    codebook_size: int
    classes: int = Field(description="How many; their names are at urls.classes")
    settings: list[str] = Field(description="The sampling fields that it honours; another one is refused")
    steps: int | None = Field(description="How many a picture takes; null where the request says")
    defaults: dict[str, Any]
    workers: int
    urls: dict[str, str]


class ModelList(BaseModel):
    models: list[ModelObject]


class ClassList(BaseModel):
    classes: list[ClassObject]
    total: int = Field(description="How many there are in all, or match q")


class Palette(BaseModel):
    """What every token looks like: paints a live picture from token events alone."""

    codes: int
    height: int = 4
    width: int = 4
    rgb: str = Field(description="base64 of uint8 [codes][height][width][3]")

"""JobSpec: every decision about a job, taken once by the API and carried out by the worker.

The queue carries it as text and never reads it. `encode` and `decode` are the only codec.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from engine.editing.outpainting import OutpaintGeometry
from service.jobs.packing import PackingError, pack_bits, pack_tokens, unpack_bits, unpack_tokens

SPEC_VERSION: Literal[1] = 1
"""Another set of fields, or another meaning of one, gets another number. Workers announce the one that they read. A
condition that only models of a new kind have needs none: a worker that does not know it serves no such model."""

Size = tuple[int, int]
"""Height and width in pixels; of a grid or a window, rows and columns in tokens."""

MAX_CELLS = 2**20

MAX_PROMPT = 2000
"""Characters. A text encoder reads 120 tokens, which are some 500 of them."""


class UnsupportedVersion(ValueError):
    """The job was written by another version of the service."""

    def __init__(self, version: object) -> None:
        super().__init__(f"the job has version {version!r}, and this process reads version {SPEC_VERSION}")
        self.version = version


class InvalidSpec(ValueError):
    """The text is no job of this version; the message names the field."""


def _read_bits(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    return unpack_bits(value["bits"], _shape(value))


def _read_tokens(value: Any) -> np.ndarray:
    """Tokens are stored one higher, as 0 stands for an empty cell."""
    if isinstance(value, np.ndarray):
        return value
    return unpack_tokens(value["tokens"], _shape(value)) - np.int32(1)


def _shape(value: Any) -> Size:
    rows, cols = value["shape"]
    if not (isinstance(rows, int) and isinstance(cols, int) and rows > 0 and cols > 0 and rows * cols <= MAX_CELLS):
        raise PackingError(f"{value['shape']} is no grid")
    return rows, cols


def _write_bits(cells: np.ndarray) -> dict[str, Any]:
    return {"shape": list(cells.shape), "bits": pack_bits(cells)}


def _write_tokens(tokens: np.ndarray) -> dict[str, Any]:
    return {"shape": list(tokens.shape), "tokens": pack_tokens(tokens + np.int32(1))}


BoolGrid = Annotated[np.ndarray, PlainValidator(_read_bits), PlainSerializer(_write_bits)]
"""bool (rows, cols)."""

TokenGrid = Annotated[np.ndarray, PlainValidator(_read_tokens), PlainSerializer(_write_tokens)]
"""int32 (rows, cols); EMPTY (−1) where there is no token."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class NoCondition(_Record):
    type: Literal["none"] = "none"


class ClassCondition(_Record):
    type: Literal["class"] = "class"
    label: int
    name: str


class TextCondition(_Record):
    """The texts as the client sent them; the worker encodes them."""

    type: Literal["text"] = "text"
    prompt: str
    negative_prompt: str | None = None


Condition = Annotated[NoCondition | ClassCondition | TextCondition, Field(discriminator="type")]


class Sampling(_Record):
    """The ten sampling parameters. None: does not apply to the model, or is as when left out."""

    steps: int | None = None
    schedule: str | None = None
    guidance_scale: float | None = None
    guidance_schedule: str | None = None
    guidance_interval: int | None = None
    content_attention: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    order: tuple[int, ...] | None = None


class Box(_Record):
    """A part of the canvas, in tokens."""

    row: int
    col: int
    rows: int
    cols: int


class InpaintCompose(_Record):
    """Drawn pixels replace the picture's inside the mask. feather: pixels over which the border is blended."""

    type: Literal["inpaint"] = "inpaint"
    feather: int
    seamless: bool


class OutpaintCompose(_Record):
    """The picture keeps its pixels, and lies on the drawn canvas as the geometry says."""

    type: Literal["outpaint"] = "outpaint"
    geometry: OutpaintGeometry
    seamless: bool


Compose = Annotated[InpaintCompose | OutpaintCompose, Field(discriminator="type")]


class Output(_Record):
    """previews: one every so many steps; 0: none."""

    format: Literal["png", "jpeg", "webp"]
    quality: int
    previews: int


class ForkOrigin(_Record):
    """Where a fork leaves another job's picture. seeds: until step …, it was drawn with seed …; then with the next,
    and at last with the fork's own. replayed: the tokens that the parent had drawn."""

    job: str
    image: int
    step: int
    seeds: tuple[tuple[int, int], ...]
    replayed: TokenGrid


class JobSpec(_Record):
    """What a worker does for a job.

    grid: rows and columns of the canvas in tokens; window_shape: those of the part that is drawn at once; windows: row
    and column of each, in drawing order; none: the whole canvas at once. size: of the result. fixed_cells: True where
    the token is given. picture_box: where the picture lies on the canvas; picture_tokens: its tokens; None: the worker
    encodes it. compose: None: the drawn picture, fitted to size. blobs: what the job starts from (`image`, `mask`) →
    the name of a stored PNG. request: the task's own fields, to be shown and sent again. digest: tells whether a
    repeated request is the same.
    """

    version: Literal[1] = SPEC_VERSION
    task: str
    model: str
    condition: Condition
    seeds: tuple[int, ...]
    sampling: Sampling
    grid: Size
    window_shape: Size
    windows: tuple[tuple[int, int], ...] = ()
    rope_scaling: Literal["extrapolate", "interpolate", "ntk"] | None = None
    size: Size
    fixed_cells: BoolGrid
    picture_box: Box | None = None
    picture_tokens: TokenGrid | None = None
    compose: Compose | None = None
    blobs: dict[str, str] = {}
    output: Output
    fork: ForkOrigin | None = None
    request: dict[str, Any] = {}
    digest: str = ""

    @model_validator(mode="after")
    def _grids_agree(self) -> JobSpec:
        if self.fixed_cells.shape != self.grid:
            raise ValueError(f"fixed_cells is not of the grid {self.grid}")
        box = self.picture_box
        if self.picture_tokens is not None and (box is None or self.picture_tokens.shape != (box.rows, box.cols)):
            raise ValueError("picture_tokens is not of the picture's box")
        if not self.seeds:
            raise ValueError("seeds must not be empty")
        return self

    @property
    def n(self) -> int:
        """How many pictures."""
        return len(self.seeds)

    @property
    def pixels(self) -> int:
        """Of all its pictures, and of the one that it starts from."""
        height, width = self.size
        return height * width * (self.n + bool(self.blobs))

    @property
    def windowed(self) -> bool:
        return self.window_shape != self.grid

    @property
    def class_label(self) -> int | None:
        return self.condition.label if isinstance(self.condition, ClassCondition) else None

    @property
    def class_name(self) -> str | None:
        return self.condition.name if isinstance(self.condition, ClassCondition) else None

    @property
    def prompt(self) -> str | None:
        return self.condition.prompt if isinstance(self.condition, TextCondition) else None

    @property
    def negative_prompt(self) -> str | None:
        return self.condition.negative_prompt if isinstance(self.condition, TextCondition) else None

    @property
    def branches(self) -> int:
        """How many times the model runs for each picture: once, or with guidance twice."""
        unguided = self.sampling.guidance_scale == 1 or self.sampling.guidance_interval == 0
        return 1 if unguided or isinstance(self.condition, NoCondition) else 2


def encode(spec: JobSpec) -> str:
    return spec.model_dump_json()


def decode(text: str) -> JobSpec:
    """Raises UnsupportedVersion or InvalidSpec."""
    try:
        version = json.loads(text).get("version")
    except (ValueError, AttributeError) as error:
        raise InvalidSpec(f"the job is not a JSON object: {error}") from None
    if version != SPEC_VERSION:
        raise UnsupportedVersion(version)
    try:
        return JobSpec.model_validate_json(text)
    except (ValidationError, KeyError, TypeError) as error:
        raise InvalidSpec(f"the job can't be read: {error}") from None


def task_of(text: str) -> str | None:
    """The task that a job names, whatever its version; for counting."""
    return _named(text, "task")


def named_model(text: str) -> str | None:
    """The model, likewise."""
    return _named(text, "model")


def _named(text: str, field: str) -> str | None:
    try:
        name = json.loads(text).get(field)
    except (ValueError, AttributeError):
        return None
    return name if isinstance(name, str) else None

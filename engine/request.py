"""What a caller asks of the engine and gets from it: requests, outputs, and the error of a bad request.

Engine.add checks a request: see engine/checks.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    import numpy as np

Schedule = Literal["arccos", "cosine"]
GuidanceSchedule = Literal["linear", "constant"]
ContentAttention = Literal["blockwise", "causal"]
Prefill = Literal["causal", "chunked", "block"]
RopeScaling = Literal["extrapolate", "interpolate", "ntk"]

EMPTY = -1
"""In a canvas or token map: nothing is drawn here yet."""

MAX_STEPS = 256
MAX_SIDE = 256  # rows or columns of a grid
MAX_SEED = 2**63 - 1
MAX_TOP_K = 2**20

CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": get_args(Schedule),
    "guidance_schedule": get_args(GuidanceSchedule),
    "content_attention": get_args(ContentAttention),
    "prefill": get_args(Prefill),
    "rope_scaling": get_args(RopeScaling),
}


class RequestError(ValueError):
    """A request that can't be drawn; field names the field at fault, reason says why."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.reason = message


@dataclass(frozen=True, slots=True)
class Window:
    """A grid's place on a larger canvas: its first row and column there, and the number of columns of the canvas."""

    row: int
    col: int
    canvas_cols: int

    def position(self, cell: int, cols: int) -> int:
        """Canvas position of a cell of a grid with `cols` columns."""
        row, col = divmod(cell, cols)
        return (self.row + row) * self.canvas_cols + self.col + col


class TextSizes(NamedTuple):
    """The texts that a model takes: rows at most, and the width of a row."""

    rows: int = 120
    width: int = 2048


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """What a text encoder makes of a prompt. rows: float32 (n, width), n ≥ 1. digest: the same for the same rows, and
    for no others."""

    rows: np.ndarray = field(compare=False, repr=False)
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One picture. All randomness is hashed from seed, task and grid position."""

    class_label: int | None = None
    """None: unconditional, one branch with the null class."""
    prompt: TextFeatures | None = None
    """For models that take text, in place of class_label. None: unconditional."""
    negative_prompt: TextFeatures | None = None
    """What guidance leads away from, in place of no text. It needs a prompt and guidance."""
    seed: int = 0
    steps: int = 64
    """1 … 256; with fewer positions to draw, each step draws one."""
    schedule: Schedule = "arccos"
    guidance_scale: float = 4.0
    """1: no unconditional branch."""
    guidance_schedule: GuidanceSchedule = "linear"
    guidance_interval: int | None = None
    """Guidance is on while fewer than this many tokens are drawn; None: always. A published cfg_interval of k is k + 2
    here."""
    temperature: float = 1.0
    """0: argmax."""
    top_k: int = 0
    """0: off."""
    top_p: float = 1.0
    """1: off."""
    content_attention: ContentAttention = "blockwise"
    """Which tokens of its own step a drawn token sees: all of them (as published), or only those before it (as in
    training)."""
    order: tuple[int, ...] | None = None
    """The grid positions (row-major) to draw, in drawing order; None: an order from the seed."""
    fixed_tokens: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """Grid position → token that is given; it is never resampled."""
    prefill: Prefill = "causal"
    """What fixed tokens see of each other when they are written to the cache, in a random order: causal: the earlier
    ones, as in training; chunked: all in the same chunk of 16; block: all, and the condition sees them too. The paper
    does not say; the demo's model card compares them."""
    guide_fixed_tokens: bool = True
    """Whether fixed tokens count as drawn in the linear guidance schedule."""
    replayed_tokens: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """Grid position → token of the steps that a fork shares with its parent. They are not drawn, but written to the
    cache in the chunks of those steps."""
    grid: tuple[int, int] | None = None
    """Rows and columns; None: the model's grid, on which it was trained."""
    rope_scaling: RopeScaling = "interpolate"
    """How the rotary embedding is extended beyond the trained grid (engine.models.layers.rotary_table)."""
    window: Window | None = None
    """The grid's place on a larger canvas. Randomness then depends on canvas positions."""
    task: str = "generate"
    """Salts the noise, so that inpainting a picture with its own seed does not draw the same tokens again."""


@dataclass(slots=True, kw_only=True)
class StepOutput:
    """What a step drew. step: 1-based, of `steps` drawing steps. n_done of n_total positions to draw are drawn.

    Not frozen: a step makes one for each of its requests, and a frozen one takes three times as long to make."""

    step: int
    steps: int
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    n_done: int
    n_total: int

    @property
    def finished(self) -> bool:
        return self.n_done == self.n_total


@dataclass(slots=True, kw_only=True)
class RequestOutput(StepOutput):
    """What a step drew of one request; id is what Engine.add returned. error: why the engine has given it up; nothing
    follows."""

    id: int
    error: Exception | None = None

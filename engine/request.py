"""What a caller asks of the engine and gets from it: requests, outputs, and the error of a bad request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

Schedule = Literal["arccos", "cosine"]
GuidanceSchedule = Literal["linear", "constant"]
ContentAttention = Literal["blockwise", "causal"]
Prefill = Literal["causal", "chunked", "block"]
RopeScaling = Literal["extrapolate", "interpolate", "ntk"]

EMPTY = -1
"""In a canvas or token map: nothing is drawn here yet."""

MAX_STEPS = 256
MAX_SIDE = 256  # rows or columns of a grid
MAX_SEED = 2**32 - 1
MAX_TOP_K = 2**20


CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": get_args(Schedule),
    "guidance_schedule": get_args(GuidanceSchedule),
    "content_attention": get_args(ContentAttention),
    "prefill": get_args(Prefill),
    "rope_scaling": get_args(RopeScaling),
}


class RequestError(ValueError):
    """A request that can't be drawn; field names the field at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One picture. All randomness is hashed from seed, task and grid position."""

    class_label: int | None = None
    """None: unconditional, one branch with the null class."""
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


def check_request(
    request: Request, *, grid: tuple[int, int], codebook_size: int, num_classes: int, any_order: bool = True
) -> None:
    """Raises RequestError with the first field that is out of bounds for a model of these sizes. any_order: whether the
    model draws in any order, and so around fixed tokens and on other grids."""
    label = request.class_label
    if label is not None and not 0 <= label < num_classes:
        raise RequestError("class_label", f"{label} is not one of the model's {num_classes} classes")
    if not 0 <= request.seed <= MAX_SEED:
        raise RequestError("seed", f"must be between 0 and {MAX_SEED}, got {request.seed}")
    if not 1 <= request.steps <= MAX_STEPS:
        raise RequestError("steps", f"must be between 1 and {MAX_STEPS}, got {request.steps}")
    for name, choices in CHOICES.items():
        if (value := getattr(request, name)) not in choices:
            raise RequestError(name, f"must be one of {choices}, got {value!r}")
    if not 0 <= request.guidance_scale <= 100:
        raise RequestError("guidance_scale", f"must be between 0 and 100, got {request.guidance_scale}")
    if request.guidance_interval is not None and request.guidance_interval < 0:
        raise RequestError("guidance_interval", f"must be 0 or more tokens, got {request.guidance_interval}")
    if not 0 <= request.temperature <= 100:
        raise RequestError("temperature", f"must be between 0 and 100, got {request.temperature}")
    if not 0 <= request.top_k <= MAX_TOP_K:
        raise RequestError("top_k", f"must be between 0 (off) and {MAX_TOP_K}, got {request.top_k}")
    if not 0 < request.top_p <= 1:
        raise RequestError("top_p", f"must be above 0 and at most 1, got {request.top_p}")
    if not any_order:
        for name in ("fixed_tokens", "order", "grid"):
            if getattr(request, name):
                raise RequestError(name, "this model draws every position of its own grid, in a fixed order")
    if request.grid is not None and not all(1 <= side <= MAX_SIDE for side in request.grid):
        raise RequestError("grid", f"must have 1 to {MAX_SIDE} rows and columns, got {request.grid}")
    rows, cols = request.grid or grid
    _check_canvas(request, rows * cols, codebook_size)


def _check_canvas(request: Request, positions: int, codebook_size: int) -> None:
    for name, tokens in (("fixed_tokens", request.fixed_tokens), ("replayed_tokens", request.replayed_tokens)):
        for position, token in tokens.items():
            if not 0 <= position < positions:
                raise RequestError(name, f"position {position} lies outside the grid of {positions}")
            if not 0 <= token < codebook_size:
                raise RequestError(name, f"token {token} is not in the codebook of {codebook_size}")
    if both := request.fixed_tokens.keys() & request.replayed_tokens.keys():
        raise RequestError("replayed_tokens", f"position {min(both)} is fixed")
    to_draw = positions - len(request.fixed_tokens)
    if to_draw == 0:
        raise RequestError("fixed_tokens", "every position is fixed: nothing is left to draw")
    if to_draw == len(request.replayed_tokens):
        raise RequestError("replayed_tokens", "every position is drawn: nothing is left to draw")
    if request.order is None:
        return
    expected = set(range(positions)) - set(request.fixed_tokens)
    if len(request.order) != to_draw or set(request.order) != expected:
        raise RequestError("order", f"must name each of the {to_draw} positions to draw exactly once")

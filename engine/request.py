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
MAX_SIDE = 256  # of a grid, in tokens
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
    """Where a grid lies on a larger canvas: its first row and column there, and how many columns the canvas has."""

    row: int
    col: int
    canvas_cols: int

    def position(self, cell: int, cols: int) -> int:
        """Canvas position of a cell of a grid with so many columns."""
        row, col = divmod(cell, cols)
        return (self.row + row) * self.canvas_cols + self.col + col


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One picture. Everything random in it comes from seed, task and grid position, by hash."""

    class_label: int | None = None
    """None: unconditional, a single branch that sees the null class."""
    seed: int = 0
    steps: int = 64
    """1 … 256; where fewer positions are unknown, one position a step."""
    schedule: Schedule = "arccos"
    guidance_scale: float = 4.0
    """1: no unconditional branch."""
    guidance_schedule: GuidanceSchedule = "linear"
    guidance_interval: int | None = None
    """Guided while fewer than so many tokens are drawn; None: always. A published cfg_interval of k is k + 2 here."""
    temperature: float = 1.0
    """0: argmax."""
    top_k: int = 0
    """0: off."""
    top_p: float = 1.0
    """1: off."""
    content_attention: ContentAttention = "blockwise"
    """What the tokens of one step see of each other once they are drawn: all (as published) or the earlier ones
    alone (as in training)."""
    order: tuple[int, ...] | None = None
    """The unknown grid positions (row-major) in drawing order; None: from the seed."""
    fixed_tokens: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """Grid position → token; never resampled."""
    prefill: Prefill = "causal"
    """How known tokens enter the cache, in a random order all the same: one by one, as in training; in chunks of 16
    that see each other both ways; or all at once, the condition among them. The paper does not say; the demo's model
    card compares."""
    guide_known: bool = True
    """Whether known tokens count as drawn in the linear guidance schedule."""
    replayed_tokens: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """Grid position → token of what the first steps have drawn already: a fork, which goes on from there. They enter
    the cache in the chunks of those steps."""
    grid: tuple[int, int] | None = None
    """Rows and columns; None: the model's. Another one is drawn beyond what the model was trained on."""
    rope_scaling: RopeScaling = "interpolate"
    """How positions beyond the trained grid are told: as they are; squeezed into it; or each frequency in the way that
    it can bear (engine.models.layers.rotary_table)."""
    window: Window | None = None
    """Where the grid lies on a larger canvas: what is random goes by the place there."""
    task: str = "generate"
    """Salts the noise, so that inpainting a picture with its own seed does not redraw it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """What a step drew. step is 1-based among the drawing steps; n_total counts the positions that were unknown."""

    step: int
    steps: int
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    n_done: int
    n_total: int

    @property
    def finished(self) -> bool:
        return self.n_done == self.n_total


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput(StepOutput):
    """What one step drew of one request; id is the request's, as Engine.add returned it."""

    id: int


def check_request(
    request: Request, *, grid: tuple[int, int], codebook_size: int, num_classes: int, any_order: bool = True
) -> None:
    """Raises RequestError with the first field that is out of bounds for a model of these sizes. any_order: does
    it draw in any order, and so around known tokens and on other grids than its own."""
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
        raise RequestError("replayed_tokens", f"position {min(both)} is known")
    unknown = positions - len(request.fixed_tokens)
    if unknown == 0:
        raise RequestError("fixed_tokens", "every position is known: nothing is left to draw")
    if unknown == len(request.replayed_tokens):
        raise RequestError("replayed_tokens", "every position is drawn: nothing is left to draw")
    if request.order is None:
        return
    expected = set(range(positions)) - set(request.fixed_tokens)
    if len(request.order) != unknown or set(request.order) != expected:
        raise RequestError("order", f"must name each of the {unknown} unknown positions exactly once")

"""What to draw: the request a caller makes, and the errors that answer a bad one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

Schedule = Literal["arccos", "cosine"]
GuidanceSchedule = Literal["linear", "constant"]
ContentAttention = Literal["blockwise", "causal"]

MAX_STEPS = 256
MAX_SEED = 2**32 - 1
MAX_TOP_K = 2**20


class RequestError(ValueError):
    """A request that can't be drawn; field names the culprit."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


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
    known: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """Grid position → token; never resampled."""
    task: str = "generate"
    """Salts the noise, so that inpainting a picture with its own seed does not redraw it."""


def check_request(
    request: Request, *, positions: int, codebook_size: int, num_classes: int, any_order: bool = True
) -> None:
    """Raises RequestError with the first field that is out of bounds for a model of these sizes. any_order: does
    it draw in any order, and so around known tokens."""
    label = request.class_label
    if label is not None and not 0 <= label < num_classes:
        raise RequestError("class_label", f"{label} is not one of the model's {num_classes} classes")
    if not 0 <= request.seed <= MAX_SEED:
        raise RequestError("seed", f"must be between 0 and {MAX_SEED}, got {request.seed}")
    if not 1 <= request.steps <= MAX_STEPS:
        raise RequestError("steps", f"must be between 1 and {MAX_STEPS}, got {request.steps}")
    if request.schedule not in get_args(Schedule):
        raise RequestError("schedule", f"must be one of {get_args(Schedule)}, got {request.schedule!r}")
    if request.guidance_schedule not in get_args(GuidanceSchedule):
        raise RequestError(
            "guidance_schedule",
            f"must be one of {get_args(GuidanceSchedule)}, got {request.guidance_schedule!r}",
        )
    if request.content_attention not in get_args(ContentAttention):
        raise RequestError(
            "content_attention",
            f"must be one of {get_args(ContentAttention)}, got {request.content_attention!r}",
        )
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
    if request.known and not any_order:
        raise RequestError("known", "this model draws every position, in a fixed order")
    if request.order is not None and not any_order:
        raise RequestError("order", "this model draws every position, in a fixed order")
    _check_canvas(request, positions, codebook_size)


def _check_canvas(request: Request, positions: int, codebook_size: int) -> None:
    for position, token in request.known.items():
        if not 0 <= position < positions:
            raise RequestError("known", f"position {position} lies outside the grid of {positions}")
        if not 0 <= token < codebook_size:
            raise RequestError("known", f"token {token} is not in the codebook of {codebook_size}")
    unknown = positions - len(request.known)
    if unknown == 0:
        raise RequestError("known", "every position is known: nothing is left to draw")
    if request.order is None:
        return
    expected = set(range(positions)) - set(request.known)
    if len(request.order) != unknown or set(request.order) != expected:
        raise RequestError("order", f"must name each of the {unknown} unknown positions exactly once")

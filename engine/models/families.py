"""The families: each builds a network and a plan from a model.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from engine.card import SETTINGS
from engine.models.arpg import ARPG, ARPG_SIZES, ARPGConfig, TextARPG
from engine.models.llamagen import LLAMAGEN_SIZES, LlamaGen, LlamaGenConfig, TextLlamaGen
from engine.models.model_index import record
from engine.models.network import Model
from engine.models.par import PAR
from engine.plans import Plan
from engine.plans.arpg import plan_arpg
from engine.plans.guidance_schedule import conditions
from engine.plans.llamagen import plan_llamagen
from engine.plans.par import plan_par, region_groups
from engine.plans.rows import MAX_CONDITION_ROWS
from engine.plans.text import text_conditions
from engine.request import Request, TextSizes

T = TypeVar("T")

ANY_ORDER_TASKS = ("generate", "inpaint", "vary", "outpaint", "expand", "fork")
FIXED_ORDER_TASKS = ("generate", "fork")
FIXED_ORDER_SETTINGS = ("guidance_scale", "guidance_interval", "temperature", "top_k", "top_p")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What a family builds from a model.json: a network without weights, the plan of a request, and fields of the card
    (see ModelCard). text: the texts that it takes; None: it takes classes."""

    network: Model
    plan: Callable[[Request], Plan]
    num_classes: int
    tasks: tuple[str, ...]
    settings: tuple[str, ...]
    steps: int | None
    text: TextSizes | None = None


Builder = Callable[[dict[str, Any], tuple[int, int]], Architecture]
"""Called with a model.json and its grid. Raises KeyError, TypeError or ValueError when an entry does not fit."""


def _arpg(data: dict[str, Any], grid: tuple[int, int]) -> Architecture:
    config = _arpg_config(data["transformer"])
    first_cell = _first_cell(data, grid)

    def plan(request: Request) -> Plan:
        drawn = request.grid or grid
        branches = conditions(request, config.class_id(request.class_label or 0), config.null_id)
        return plan_arpg(request, grid=drawn, mask_id=config.mask_id, conditions=branches, first_cell=first_cell(drawn))

    return Architecture(
        network=ARPG(config),
        plan=plan,
        num_classes=config.num_classes,
        tasks=ANY_ORDER_TASKS,
        settings=SETTINGS,
        steps=None,
    )


def _arpg_t2i(data: dict[str, Any], grid: tuple[int, int]) -> Architecture:
    text = _text(data)
    config = _arpg_config(data["transformer"])
    first_cell = _first_cell(data, grid)

    def plan(request: Request) -> Plan:
        drawn = request.grid or grid
        # The unconditional rows come behind the image tokens and [MASK]: see TextRows.
        branches = text_conditions(request, null_id=config.mask_id + 1, null_rows=text.rows)
        return plan_arpg(request, grid=drawn, mask_id=config.mask_id, conditions=branches, first_cell=first_cell(drawn))

    return Architecture(
        network=TextARPG(replace(config, num_classes=0), text),
        plan=plan,
        num_classes=0,
        tasks=ANY_ORDER_TASKS,
        settings=SETTINGS,
        steps=None,
        text=text,
    )


def _arpg_config(sizes: dict[str, Any] | str) -> ARPGConfig:
    return _size(ARPG_SIZES, sizes) if isinstance(sizes, str) else record(ARPGConfig, sizes, "transformer")


def _size(sizes: Mapping[str, T], name: str) -> T:
    if name not in sizes:
        raise ValueError(f"transformer: there is no size {name}; there are {', '.join(sizes)}")
    return sizes[name]


def _first_cell(data: dict[str, Any], grid: tuple[int, int]) -> Callable[[tuple[int, int]], int | None]:
    """The cell that a model draws first, of a grid; on a larger one at the same relative height and width."""
    if "first_cell" not in data:
        return lambda drawn: None
    row, col = divmod(data["first_cell"], grid[1])
    return lambda drawn: row * drawn[0] // grid[0] * drawn[1] + col * drawn[1] // grid[1]


def _text(data: dict[str, Any]) -> TextSizes:
    """The texts that a model takes in place of classes. Raises ValueError."""
    sizes = data["transformer"]
    if isinstance(sizes, dict) and "num_classes" in sizes:
        raise ValueError("transformer: this family has no num_classes; leave it out")
    text = record(TextSizes, data.get("text", {}), "text")
    if not (1 <= text.rows <= MAX_CONDITION_ROWS and text.width >= 1):
        raise ValueError(f"text: needs 1 to {MAX_CONDITION_ROWS} rows, of a width of at least 1, got {text}")
    return text


def _llamagen_config(sizes: dict[str, Any] | str) -> LlamaGenConfig:
    return _size(LLAMAGEN_SIZES, sizes) if isinstance(sizes, str) else record(LlamaGenConfig, sizes, "transformer")


def _llamagen(data: dict[str, Any], grid: tuple[int, int]) -> Architecture:
    config = _llamagen_config(data["transformer"])
    positions = grid[0] * grid[1]

    def plan(request: Request) -> Plan:
        branches = conditions(request, config.class_id(request.class_label or 0), config.null_id)
        return plan_llamagen(request, positions=positions, conditions=branches)

    return Architecture(
        network=LlamaGen(config),
        plan=plan,
        num_classes=config.num_classes,
        tasks=FIXED_ORDER_TASKS,
        settings=FIXED_ORDER_SETTINGS,
        steps=positions,
    )


def _llamagen_t2i(data: dict[str, Any], grid: tuple[int, int]) -> Architecture:
    text = _text(data)
    config = _llamagen_config(data["transformer"])
    positions = grid[0] * grid[1]

    def plan(request: Request) -> Plan:
        # The unconditional rows come behind the image tokens: see TextRows.
        branches = text_conditions(request, null_id=config.vocab_size, null_rows=text.rows)
        return plan_llamagen(request, positions=positions, conditions=branches)

    return Architecture(
        network=TextLlamaGen(replace(config, num_classes=0), text),
        plan=plan,
        num_classes=0,
        tasks=FIXED_ORDER_TASKS,
        settings=FIXED_ORDER_SETTINGS,
        steps=positions,
        text=text,
    )


def _par(data: dict[str, Any], grid: tuple[int, int]) -> Architecture:
    config = _llamagen_config(data["transformer"])
    regions = data["regions"]
    groups = region_groups(grid, regions)

    def plan(request: Request) -> Plan:
        return plan_par(
            request,
            groups=groups,
            special_ids=[config.special_id(index) for index in range(regions - 1)],
            class_id=config.class_id(request.class_label or 0),
            null_id=config.null_id,
        )

    return Architecture(
        network=PAR(config, regions),
        plan=plan,
        num_classes=config.num_classes,
        tasks=FIXED_ORDER_TASKS,
        settings=FIXED_ORDER_SETTINGS,
        steps=regions + len(groups) - 1,
    )


FAMILIES: dict[str, Builder] = {
    "arpg": _arpg,
    "arpg-t2i": _arpg_t2i,
    "llamagen": _llamagen,
    "llamagen-t2i": _llamagen_t2i,
    "par": _par,
}

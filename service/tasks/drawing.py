"""From a JobSpec to engine requests, and from drawn tokens to the finished PNG."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from engine.editing.windows import WindowedGeneration
from engine.request import EMPTY, Request, Window
from service.jobs.spec import JobSpec
from service.tasks.pictures import recipe
from service.tasks.pictures.images import encode
from service.tasks.registry import TASKS
from service.tasks.task import Inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.card import ModelCard

    Fork = Callable[[Request, Mapping[int, int], int, int], Request]


PNG_LEVEL = 4
"""Half the time of level 6, and files 4 % larger."""


@dataclass(frozen=True, slots=True)
class FinishedPicture:
    png: bytes
    width: int
    height: int


def requests(spec: JobSpec, card: ModelCard) -> list[Request]:
    """The engine's request of each picture, without its fixed tokens."""
    settings = {name: value for name, value in spec.sampling if value is not None}
    if spec.rope_scaling is not None:
        settings["rope_scaling"] = spec.rope_scaling
    grid = None if spec.grid == card.grid else spec.grid
    return [
        Request(class_label=spec.class_label, seed=seed, task=spec.task, grid=grid, **settings) for seed in spec.seeds
    ]


def fork_requests(spec: JobSpec, canvas: np.ndarray, card: ModelCard, fork: Fork) -> list[Request]:
    """As `requests`; a fork's replay what its parent had drawn. fork: the engine's."""
    own = requests(spec, card)
    if spec.fork is None:
        return own
    flat = spec.fork.replayed.ravel()
    drawn = {int(cell): int(flat[cell]) for cell in np.flatnonzero(flat != EMPTY)}
    fixed = {int(cell): int(canvas.flat[cell]) for cell in np.flatnonzero(canvas != EMPTY)}
    # The first ancestor's seed decided the order that all its descendants go by.
    step, ancestor = spec.fork.seeds[-1][0], spec.fork.seeds[0][1]
    return [fork(replace(request, fixed_tokens=fixed, seed=ancestor), drawn, step, request.seed) for request in own]


def generation(spec: JobSpec, canvas: np.ndarray, request: Request) -> WindowedGeneration:
    """The chain of engine requests that draws one picture on a canvas int32 grid."""
    corners = spec.windows or ((0, 0),)
    windows = tuple(Window(row, col, spec.grid[1]) for row, col in corners)
    return WindowedGeneration(request, canvas, windows, spec.window_shape)


def finish(
    spec: JobSpec, request: Request, tokens: np.ndarray, drawn: np.ndarray, *, inputs: Inputs, card: ModelCard
) -> FinishedPicture:
    """The finished picture, as a lossless PNG that carries its recipe. tokens: the full map int (rows, cols). drawn:
    uint8 (H, W, 3), what they decode to. request: as `requests` made it."""
    shown = TASKS[spec.task].compose(spec, inputs, drawn)
    text = recipe.write(
        shown,
        tokens,
        request,
        card,
        class_name=spec.class_name,
        known=spec.fixed_cells,
        windows=spec.windows,
        forks=() if spec.fork is None else spec.fork.seeds,
        composited=shown is not drawn,
    )
    profile = None if shown is drawn else inputs.profile
    png = encode(shown, "png", level=PNG_LEVEL, text={recipe.KEYWORD: text}, profile=profile)
    return FinishedPicture(png, width=shown.shape[1], height=shown.shape[0])

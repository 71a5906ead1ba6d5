"""Measures pictures on grids larger than the trained one, drawn at once or window by window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, get_args

import numpy as np
import torch

from engine.editing.masks import fit
from engine.editing.outpainting import OutpaintGeometry, Padding, outpaint_geometry
from engine.editing.windows import windows_over
from engine.evaluation.asking import asking_for
from engine.evaluation.cached_generator import CachedGenerator
from engine.evaluation.editing import Renders, window_areas, window_seams
from engine.evaluation.metrics import frechet
from engine.request import EMPTY, Request, RopeScaling, Window
from engine.training.classifier import Classifier, Predictions, classify

Grid = tuple[int, int]
WINDOWED, OUTPAINTED = "windowed", "outpainted"
METHODS = (*get_args(RopeScaling), WINDOWED, OUTPAINTED)


@dataclass(frozen=True, slots=True)
class Expanded:
    """tokens int32 (n, rows, cols), pictures uint8 (n, H, W, 3).

    whole: share recognised when the picture is squeezed into the model's size; crops: share of crops of the model's
    size in which the class is recognised; frechet: that of the crops to as many test renders. borders: for each window
    but the first, how much harder its border is than the lines between tokens elsewhere, the mean over the pictures.
    """

    tokens: np.ndarray
    pictures: np.ndarray
    whole: float
    crops: float
    frechet: float
    windows: tuple[Window, ...]
    borders: np.ndarray


def expand(
    grid: Grid,
    method: str,
    generator: CachedGenerator,
    renders: Renders,
    classifier: Classifier,
    settings: Mapping[str, Any],
) -> Expanded:
    """A picture for each render, picture i of its class and from seed i. With OUTPAINTED the render itself is in the
    middle."""
    tokens, fixed_cells = _draw(grid, method, generator, renders, settings)
    pictures = generator.decode(tokens)
    size = renders.size
    squeezed = np.stack([fit(picture, (size, size)) for picture in pictures])
    cut = crops(pictures, size)
    labels = torch.from_numpy(renders.labels)
    predictions = _classify(classifier, cut)
    there = min(len(cut), len(renders.predictions.features))
    windows = () if fixed_cells is None else windows_over(fixed_cells, generator.engine.model.grid)
    areas = (
        np.zeros(grid, int) if fixed_cells is None else window_areas(windows, fixed_cells, generator.engine.model.grid)
    )
    return Expanded(
        tokens=tokens,
        pictures=pictures,
        whole=_classify(classifier, squeezed).share(labels),
        crops=predictions.share(labels.repeat_interleave(len(cut) // len(labels))),
        frechet=frechet(predictions.features[:there], renders.predictions.features[:there]),
        windows=windows,
        borders=np.stack([window_seams(picture, areas) for picture in pictures]).mean(0),
    )


def crops(pictures: np.ndarray, size: int) -> np.ndarray:
    """Squares (n · k, size, size, 3), picture by picture, evenly spread; as few as cover a picture."""
    tops, lefts = (_evenly(length, size) for length in pictures.shape[1:3])
    return np.stack([p[top : top + size, left : left + size] for p in pictures for top in tops for left in lefts])


@dataclass(frozen=True, slots=True)
class Agreement:
    """Share of cells in which two token maps agree: neighbouring windows of one picture, and independent samples of one
    class; means, and the standard deviation over pairs of samples."""

    neighbours: float
    independent: float
    deviation: float

    @property
    def bound(self) -> float:
        return self.independent + 2 * self.deviation


def agreement(
    expanded: Expanded, generator: CachedGenerator, labels: np.ndarray, settings: Mapping[str, Any]
) -> Agreement:
    """Windows with the same noise would agree more than independent samples. Neighbours overlap or touch."""
    rows, cols = generator.engine.model.grid
    pairs = [
        (a, b)
        for a, b in combinations(expanded.windows, 2)
        if abs(a.row - b.row) <= rows and abs(a.col - b.col) <= cols
    ]
    inside = [[expanded.tokens[:, w.row : w.row + rows, w.col : w.col + cols] for w in pair] for pair in pairs]
    neighbours = np.array([(a == b).mean((1, 2)) for a, b in inside])
    twice = enumerate([*labels, *labels])
    asked = [(seed, asking_for(generator.engine, label)) for seed, label in twice]
    samples = generator.draw([Request(**each, seed=seed, **settings) for seed, each in asked])
    independent = (samples[: len(labels)] == samples[len(labels) :]).mean((1, 2))
    return Agreement(float(neighbours.mean()), float(independent.mean()), float(independent.std()))


def _draw(
    grid: Grid, method: str, generator: CachedGenerator, renders: Renders, settings: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Token maps; and, if they were drawn in windows, the fixed cells of each canvas, bool (rows, cols)."""
    at_once = {"grid": grid, "rope_scaling": method} if method in get_args(RopeScaling) else {}
    fixed = {"task": "outpaint" if method == OUTPAINTED else "expand", **at_once, **settings}
    # A text model outpaints without a prompt: a name would ask for another thing in each window.
    silent = method == OUTPAINTED and generator.engine.text_encoder is not None
    asked = [asking_for(generator.engine, None if silent else label) for label in renders.labels]
    requests = [Request(**each, seed=seed, **fixed) for seed, each in enumerate(asked)]
    if at_once:
        return generator.draw(requests), None
    canvases = np.full((len(requests), *grid), EMPTY, np.int32)
    if method == OUTPAINTED:
        geometry = _centred(grid, generator, renders.size)
        continued = np.stack([geometry.continued(picture) for picture in renders.pictures])
        canvases = np.stack([geometry.canvas(geometry.own(tokens)) for tokens in generator.encode(continued)])
    return generator.generate_windowed(requests, canvases), canvases[0] != EMPTY


def _centred(grid: Grid, generator: CachedGenerator, size: int) -> OutpaintGeometry:
    """A picture of the model's size in the middle of a canvas."""
    card = generator.engine.model
    tall, wide = ((whole - own) * card.stride for whole, own in zip(grid, card.grid, strict=True))
    asked = Padding(up=tall // 2, down=tall - tall // 2, left=wide // 2, right=wide - wide // 2)
    return outpaint_geometry((size, size), asked, grid=card.grid, stride=card.stride)


def _classify(classifier: Classifier, pictures: np.ndarray) -> Predictions:
    return classify(classifier, torch.from_numpy(pictures).permute(0, 3, 1, 2))


def _evenly(length: int, size: int) -> list[int]:
    count = -(-length // size)
    return [round(i * (length - size) / max(1, count - 1)) for i in range(count)]

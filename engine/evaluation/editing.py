"""Measures inpainting: pictures completed behind masks, by the model and by methods without a model; exchanged objects;
and how visible the border of the drawn part is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from engine.editing.masks import composite, fixed_cells, fixed_tokens
from engine.editing.windows import cells_of_windows
from engine.evaluation.asking import asking_for
from engine.evaluation.cached_generator import CachedGenerator
from engine.evaluation.masks import bounding_boxes, masks, outlines
from engine.evaluation.metrics import frechet
from engine.request import Request, Window
from engine.training.classifier import Classifier, Predictions, classify
from engine.training.world.renders import load_split
from engine.training.world.shapes import THINGS

RADIUS = 3  # pixels: the neighbourhood that cv2.inpaint looks at
UNTOUCHED, GIVEN, HARD, WITHHELD = "untouched", "**class given**", "class given, hard", "class withheld"


@dataclass(frozen=True, slots=True)
class Renders:
    """Test renders: pictures uint8 (n, H, W, 3), tokens int32 (n, rows, cols), labels (n,), and the classifier's output
    for them."""

    pictures: np.ndarray
    tokens: np.ndarray
    labels: np.ndarray
    predictions: Predictions

    @classmethod
    def load(cls, world: Path, generator: CachedGenerator, classifier: Classifier, count: int) -> Renders:
        found, labels = load_split(world, "test", limit=count)
        pictures = found.permute(0, 2, 3, 1).contiguous().numpy()
        return cls(pictures, generator.encode(pictures), labels.numpy(), classify(classifier, found))

    @property
    def size(self) -> int:
        return self.pictures.shape[1]

    def behind(self, hidden: np.ndarray) -> np.ndarray:
        """The pictures, white where masks bool (n, H, W) hide them."""
        return np.where(hidden[..., None], np.uint8(255), self.pictures)


@dataclass(frozen=True, slots=True)
class Edited:
    """Pictures uint8 (n, H, W, 3) edited behind masks bool (n, H, W), and their figures.

    recognised: share recognised as the class that they should show. frechet: distance to the same renders, unedited, so
    0 for unedited pictures. seam: |gradient across the border of the mask - the same in the render|, the mean over the
    pictures, in levels of 255. hardness: the same without taking the absolute value; below 0, borders are smoother than
    in the renders.
    """

    name: str
    pictures: np.ndarray
    masks: np.ndarray
    recognised: float
    frechet: float
    seam: float
    hardness: float


def measure_edit(
    name: str,
    drawn: np.ndarray,
    hidden: np.ndarray,
    labels: np.ndarray,
    renders: Renders,
    classifier: Classifier,
    *,
    smooth: bool = False,
) -> Edited:
    """drawn uint8 (n, H, W, 3) is composited behind the masks (n, H, W); the rest is the render, unchanged. smooth: see
    composite."""
    each = zip(renders.pictures, drawn, hidden, strict=True)
    pictures = np.stack([composite(*one, smooth=smooth) for one in each])
    predictions = classify(classifier, torch.from_numpy(pictures).permute(0, 3, 1, 2))
    seam = seams(pictures, renders.pictures, hidden)
    return Edited(
        name=name,
        pictures=pictures,
        masks=hidden,
        recognised=predictions.share(torch.from_numpy(labels)),
        frechet=max(0.0, frechet(predictions.features, renders.predictions.features)),  # rounding can take it below
        seam=float(np.abs(seam).mean()),
        hardness=float(seam.mean()),
    )


def complete(
    generator: CachedGenerator,
    renders: Renders,
    hidden: np.ndarray,
    labels: Sequence[int] | None,
    settings: Mapping[str, Any],
) -> np.ndarray:
    """Pictures drawn behind masks that are snapped outwards to whole tokens, picture i from seed i; labels None: the
    class is withheld."""
    fixed = [fixed_cells(mask, generator.engine.model.grid) for mask in hidden]
    requests = [
        Request(
            **asking_for(generator.engine, None if labels is None else labels[i]),
            seed=i,
            fixed_tokens=fixed_tokens(renders.tokens[i], fixed[i]),
            task="inpaint",
            **settings,
        )
        for i in range(len(hidden))
    ]
    return generator.decode(generator.draw(requests))


def completions(
    name: str, generator: CachedGenerator, renders: Renders, classifier: Classifier, settings: Mapping[str, Any]
) -> Iterator[Edited]:
    """Every way of filling the masks of one name, by the model and by other methods."""
    hidden = masks(name, len(renders.labels), renders.size)
    ways = {
        UNTOUCHED: lambda: renders.pictures,
        "tokenizer alone": lambda: generator.decode(renders.tokens),
        GIVEN: lambda: complete(generator, renders, hidden, renders.labels.tolist(), settings),
        HARD: lambda: complete(generator, renders, hidden, renders.labels.tolist(), settings),
        WITHHELD: lambda: complete(generator, renders, hidden, None, settings),
        "mean colour": lambda: mean_colour(renders.pictures, hidden),
        "diffusion": lambda: diffusion(renders.pictures, hidden),
    }
    for way, draw in ways.items():
        yield measure_edit(way, draw(), hidden, renders.labels, renders, classifier, smooth=way in (GIVEN, WITHHELD))


def exchanges(
    generator: CachedGenerator, renders: Renders, classifier: Classifier, settings: Mapping[str, Any]
) -> Iterator[Edited]:
    """Whole objects exchanged for things of another class, behind their outlines or the boxes around these, seamless
    and hard."""
    count = len(renders.labels)
    around = outlines("test", count, renders.size)
    new = other_labels(renders.labels)
    for name, hidden in (("outline", around), ("box", bounding_boxes(around))):
        drawn = complete(generator, renders, hidden, new.tolist(), settings)
        yield measure_edit(name, drawn, hidden, new, renders, classifier, smooth=True)
        yield measure_edit(f"{name}, hard", drawn, hidden, new, renders, classifier)


def other_labels(labels: np.ndarray) -> np.ndarray:
    """For each label another one, drawn uniformly from the others; the same every time."""
    rng = np.random.Generator(np.random.PCG64(0))
    return (labels + rng.integers(1, len(THINGS), len(labels))) % len(THINGS)


def mean_colour(pictures: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Pictures of one colour each: the mean of the pixels outside its mask."""
    means = [np.rint(picture[~mask].mean(0)) for picture, mask in zip(pictures, hidden, strict=True)]
    return np.broadcast_to(np.array(means, np.uint8)[:, None, None], pictures.shape)


def diffusion(pictures: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """By a partial differential equation: lines of equal brightness carried on as a Navier–Stokes flow (Bertalmío,
    Bertozzi and Sapiro 2001), by OpenCV."""
    pairs = zip(pictures, hidden.astype(np.uint8), strict=True)
    return np.stack([cv2.inpaint(picture, mask, RADIUS, cv2.INPAINT_NS) for picture, mask in pairs])


def seams(drawn: np.ndarray, real: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """For each picture, the mean |gradient across the border of its mask| minus that of the real picture there.

    Pictures uint8 (n, H, W, 3), masks bool (n, H, W); the result float (n,), in levels of 255. Above 0 the border is
    harder than in the real picture, below 0 smoother.
    """
    pairs = zip(drawn, real, masks, strict=True)
    return np.array([across(mask, picture) - across(mask, there) for picture, there, mask in pairs])


def across(mask: np.ndarray, picture: np.ndarray) -> float:
    """Mean absolute difference, in levels of 255, of neighbouring pixels on the two sides of a mask's border."""
    levels = picture.astype(np.float64)
    steps = [
        np.abs(np.diff(levels, axis=axis)).mean(2)[np.diff(mask.astype(np.int8), axis=axis) != 0] for axis in (0, 1)
    ]
    return float(np.concatenate(steps).mean())


def window_areas(windows: Sequence[Window], fixed_cells: np.ndarray, window_shape: tuple[int, int]) -> np.ndarray:
    """int (rows, cols): the index of the last window that draws each cell; -1 where the token is fixed."""
    areas = np.full(fixed_cells.shape, -1)
    for index, (window, drawn) in enumerate(
        zip(windows, cells_of_windows(fixed_cells, windows, window_shape), strict=True)
    ):
        inside = areas[window.row : window.row + window_shape[0], window.col : window.col + window_shape[1]]
        inside[drawn] = index
    return areas


def window_seams(picture: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """For each area but the first that was drawn: the mean |gradient across its border with earlier ones| minus that
    across the lines between tokens elsewhere in the picture, float (areas - 1,), in levels of 255."""
    stride = picture.shape[0] // areas.shape[0]
    fine = areas.repeat(stride, 0).repeat(stride, 1)
    levels = picture.astype(np.float64)
    steps, later, elsewhere = [], [], []
    for axis in (0, 1):
        before, after = (np.delete(fine, at, axis) for at in (-1, 0))
        steps.append(np.abs(np.diff(levels, axis=axis)).mean(2).ravel())
        later.append(np.where(before != after, np.maximum(before, after), areas.min()).ravel())
        lines = np.arange(1, len(fine) if axis == 0 else fine.shape[1]) % stride == 0
        elsewhere.append(((before == after) & (lines[:, None] if axis == 0 else lines)).ravel())
    step, area, plain = (np.concatenate(parts) for parts in (steps, later, elsewhere))
    usual = step[plain].mean()
    return np.array([step[area == index].mean() - usual for index in range(areas.min() + 1, areas.max() + 1)])

"""Which things the scene classifier sees in a picture, and where."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from engine.training.world.scenes.classifier import STRIDE, SceneClassifier, SceneLogits, scene_logits
from engine.training.world.scenes.pasting import CELL
from engine.training.world.scenes.truth import NOTHING

LEAST_CELLS = 2
"""A single cell is no shape: the classifier sees one now and then in shadows."""
NAMED = 0.5
"""A shape has a name if the mean probability of its likeliest class is so high."""
MINOR = 0.3
"""A smaller part than this share of a shape counts with the largest part: single cells of a thing are misread."""


@dataclass(frozen=True, slots=True)
class Found:
    """Connected cells in which the classifier sees one class. hue: the likeliest one. box: left, top, right, bottom in
    pixels. confidence: the mean probability of the class, if there is a thing. whole: the mean probability that nothing
    has cut the thing but the border of the picture or another thing."""

    label: int
    hue: int
    box: tuple[int, int, int, int]
    cells: int
    confidence: float
    whole: float

    @property
    def middle(self) -> float:
        return (self.box[0] + self.box[2]) / 2


@dataclass(frozen=True, slots=True)
class Seen:
    """The classifier's reading of a picture; things from left to right."""

    things: tuple[Found, ...]
    floor: int
    sky: int


def see(classifier: SceneClassifier, pictures: np.ndarray) -> list[Seen]:
    """Of uint8 pictures (n, H, W, 3), H and W multiples of 32."""
    height, width = pictures.shape[1:3]
    if height % STRIDE or width % STRIDE:
        raise ValueError(f"pictures of {width}×{height} pixels: the scene classifier reads multiples of {STRIDE}")
    logits = scene_logits(classifier, pictures)
    return [read(logits, index) for index in range(len(pictures))]


def read(logits: SceneLogits, index: int) -> Seen:
    """Picture `index` of a batch."""
    chances = torch.softmax(logits.things[index], 0).numpy()
    hues = torch.log_softmax(logits.hues[index], 0).numpy()
    whole = torch.sigmoid(logits.whole[index]).numpy()
    there = chances.argmax(0) != NOTHING
    named = chances[:NOTHING] / chances[:NOTHING].sum(0)
    found = []
    for shape in _connected(there):
        if shape.sum() >= LEAST_CELLS:
            found += [_describe(label, cells, named, hues, whole) for label, cells in _parts(shape, named)]
    found.sort(key=lambda one: one.middle)
    return Seen(tuple(found), int(logits.floor[index].argmax()), int(logits.sky[index].argmax()))


def _connected(cells: np.ndarray) -> list[np.ndarray]:
    """bool (h, w) of each connected group of cells, also by corners."""
    count, groups = cv2.connectedComponents(cells.astype(np.uint8), connectivity=8)
    return [groups == group for group in range(1, count)]


def _parts(shape: np.ndarray, named: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """The classes in a connected shape, with their cells; small parts go to the largest."""
    best = named.argmax(0)
    parts = [(int(label), part) for label in np.unique(best[shape]) for part in _connected(shape & (best == label))]
    parts.sort(key=lambda part: -int(part[1].sum()))
    largest = parts[0][1].copy()
    kept = []
    for label, part in parts[1:]:
        if part.sum() < MINOR * shape.sum():
            largest |= part
        else:
            kept.append((label, part))
    return [(parts[0][0], largest), *kept]


def _describe(label: int, cells: np.ndarray, named: np.ndarray, hues: np.ndarray, whole: np.ndarray) -> Found:
    columns, rows = np.flatnonzero(cells.any(0)), np.flatnonzero(cells.any(1))
    return Found(
        label=label,
        hue=int(hues[:, cells].sum(1).argmax()),
        box=(
            int(columns[0]) * CELL,
            int(rows[0]) * CELL,
            (int(columns[-1]) + 1) * CELL,
            (int(rows[-1]) + 1) * CELL,
        ),
        cells=int(cells.sum()),
        confidence=float(named[label][cells].mean()),
        whole=float(whole[cells].mean()),
    )

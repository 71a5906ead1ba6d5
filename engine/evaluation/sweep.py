"""Compares settings: draws the same classes and seeds with every combination, and measures them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from engine.evaluation.quality import Quality, Reference, measure
from engine.evaluation.samples import Samples, draw
from engine.training.classifier import Classifier, classify


@dataclass(frozen=True, slots=True)
class Point:
    """One combination: the settings that vary, its quality, and its cost (see Samples)."""

    settings: dict[str, Any]
    quality: Quality
    rows: float
    seconds: float
    together: float


def sweep(
    model: Path,
    runs: Path,
    classifier: Classifier,
    reference: Reference,
    axes: Mapping[str, Sequence[Any]],
    each: int,
    device: str | None = None,
) -> list[Point]:
    points = []
    for values in product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        samples = draw(model, runs / "samples", each, settings, device)
        points.append(point(settings, samples, classifier, reference))
        print(row(points[-1]), flush=True)
    return points


def point(settings: dict[str, Any], samples: Samples, classifier: Classifier, reference: Reference) -> Point:
    quality = measure(classify(classifier, samples.pictures), samples.labels, reference.test)
    return Point(settings, quality, samples.rows, samples.seconds, samples.together)


def table(points: Sequence[Point]) -> str:
    """Markdown."""
    names = [*points[0].settings, "recognised", "Fréchet", "precision", "recall", "rows", "s alone", "s in a crowd"]
    head = f"| {' | '.join(names)} |\n|{'---|' * len(names)}"
    return "\n".join([head, *map(row, points)])


def row(point: Point) -> str:
    q = point.quality
    measured = f"{q.accuracy:.3f} | {q.frechet:.2f} | {q.precision:.2f} | {q.recall:.2f}"
    cost = f"{point.rows:.0f} | {point.seconds:.2f} | {point.together:.2f}"
    return f"| {' | '.join(map(str, point.settings.values()))} | {measured} | {cost} |"

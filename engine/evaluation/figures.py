"""Figures of the model card: plots, contact sheets, and a picture at moments of its drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from engine.core.engine import Engine
from engine.evaluation.quality import CopyCheck, Quality
from engine.evaluation.sweep import Point
from engine.request import Request

SIZE = (10.0, 3.6)  # inches
DPI = 110


def plot_quality(quality: Quality, copying: CopyCheck, path: Path) -> None:
    figure = Figure(SIZE, layout="constrained")
    classes, distances, agreement = figure.subplots(1, 3)
    classes.barh(list(quality.by_class), list(quality.by_class.values()), color="tab:blue")
    classes.invert_yaxis()
    classes.set(title=f"recognised: {quality.accuracy:.1%}", xlim=(0, 1))
    named = {"samples": copying.samples, "unseen renders": copying.unseen, "copies": copying.copies}
    for name, found in named.items():
        distances.hist(found.distances.numpy(), bins=60, histtype="step", density=True, label=name)
        agreement.hist(found.agreement.numpy(), bins=60, histtype="step", density=True, label=name)
    distances.set(title="nearest training picture", xlabel="distance in features", yticks=[], yscale="log")
    agreement.set(title="nearest training token map", xlabel="share that agrees", yticks=[], yscale="log")
    distances.legend(fontsize="small")
    _save(figure, path)


def plot_sweep(points: Sequence[Point], path: Path) -> None:
    """x: the first numeric setting that varies; a line for each combination of the others."""
    axis = _varying(points)
    figure = Figure(SIZE, layout="constrained")
    panels = figure.subplots(1, 3)
    lines: dict[str, list[Point]] = {}
    for point in points:
        others = [str(v) for name, v in point.settings.items() if name != axis and len(_values(points, name)) > 1]
        lines.setdefault(", ".join(others), []).append(point)
    for name, line in lines.items():
        x = [point.settings[axis] for point in line]
        panels[0].plot(x, [p.quality.frechet for p in line], marker="o", markersize=3, label=name)
        panels[1].plot(x, [p.quality.accuracy for p in line], marker="o", markersize=3)
        panels[2].plot(x, [p.seconds for p in line], marker="o", markersize=3)
    panels[1].set_ylim(0, 1.02)
    for panel, title in zip(panels, ("Fréchet distance", "recognised", "seconds alone"), strict=True):
        panel.set(title=title, xlabel=axis)
        if axis == "steps":
            panel.set_xscale("log", base=2)
    if len(lines) > 1:
        panels[0].legend(fontsize="small")
    _save(figure, path)


def plot_curve(steps: Sequence[int], columns: Mapping[str, Sequence[float]], path: Path) -> None:
    figure = Figure(SIZE, layout="constrained")
    for panel, (title, values) in zip(figure.subplots(1, len(columns)), columns.items(), strict=True):
        panel.plot(steps, values, marker="o", markersize=3)
        panel.set(title=title, xlabel="training steps")
    _save(figure, path)


def _values(points: Sequence[Point], name: str) -> set[Any]:
    return {point.settings[name] for point in points}


def _varying(points: Sequence[Point]) -> str:
    for name, value in points[0].settings.items():
        if isinstance(value, (int, float)) and len(_values(points, name)) > 1:
            return name
    return next(iter(points[0].settings))


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    print(path)


GAP = 4
HEADER = 32
FONT = 20
PAPER = 238


def contact_sheet(pictures: Sequence[np.ndarray], columns: int, header: Sequence[str] = ()) -> Image.Image:
    """Pictures uint8 (H, W, 3) of one size, row by row, under the names of the columns."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    top = HEADER if header else GAP
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + top), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(header):
        draw.text((GAP + column * (width + GAP) + width // 2, top // 2), name, "black", font_size=FONT, anchor="mm")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(Image.fromarray(picture), (GAP + column * (width + GAP), top + row * (height + GAP)))
    return sheet


def moments(engine: Engine, request: Request, count: int) -> list[np.ndarray]:
    """One picture at `count` moments of its drawing, evenly spread over the steps; the last is the picture itself.

    In the others, drawn tokens are shown by their palette patches on a light background.
    """
    rows, cols = engine.model.grid
    canvas = np.full((rows * cols,), -1, np.int32)
    frames: list[np.ndarray] = []
    engine.add(request)
    while not engine.idle:
        for update in engine.step():
            canvas[list(update.positions)] = update.tokens
            if update.step * count >= (len(frames) + 1) * update.steps:
                frames.append(_mosaic(engine, canvas.reshape(rows, cols)))
    return [*frames[:-1], engine.codec.decode(canvas.reshape(rows, cols))]


def _mosaic(engine: Engine, canvas: np.ndarray) -> np.ndarray:
    """uint8 picture of a token map in which -1 is blank."""
    patches = engine.codec.palette()[np.maximum(canvas, 0)]  # rows, cols, 4, 4, 3
    patches = np.where((canvas < 0)[..., None, None, None], np.uint8(PAPER), patches)
    rows, cols, side = canvas.shape[0], canvas.shape[1], patches.shape[2]
    small = Image.fromarray(patches.swapaxes(1, 2).reshape(rows * side, cols * side, 3))
    size = (cols * engine.codec.stride, rows * engine.codec.stride)
    return np.asarray(small.resize(size, Image.Resampling.NEAREST))

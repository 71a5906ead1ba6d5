"""The panels as pictures: a sheet for each row of the dashboard."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from tests.deploy.dashboard import Panel
from tests.deploy.prometheus import Line

COLUMNS = 3
LEGENDS = 8
"""A panel names so many lines, those with the highest peaks."""

UNITS = {"s": "seconds", "short": "", "bytes": "MiB", "reqps": "a second", "percentunit": "%"}
SCALES = {"bytes": 1 / 2**20, "percentunit": 100.0}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A panel with what Prometheus answered: the lines of each of its queries, and their legends."""

    panel: Panel
    lines: list[tuple[str, Line]]


def file_name(row: str) -> str:
    return re.sub(r"[^a-z]+", "-", row.lower()) + ".webp"


def draw(panels: Sequence[Drawn], times: tuple[float, float], file: Path) -> None:
    """The panels of one row, from the first of these times to the second."""
    rows = math.ceil(len(panels) / COLUMNS)
    figure = Figure((13, 2.7 * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index < len(panels):
            _panel(axes, panels[index], *times)
        else:
            axes.set_axis_off()
    figure.savefig(file, dpi=90, pil_kwargs={"quality": 80, "method": 6})


def legend(pattern: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), pattern)


def _panel(axes: Axes, drawn: Drawn, start: float, end: float) -> None:
    panel, scale = drawn.panel, SCALES.get(drawn.panel.unit, 1.0)
    for label, line in drawn.lines:
        axes.plot([(at - start) / 60 for at in line.times], [value * scale for value in line.values], label=label, lw=1)
    if drawn.lines:
        named = sorted(zip(drawn.lines, axes.lines, strict=True), key=lambda one: -_peak(one[0][1]))[:LEGENDS]
        axes.legend([line for _, line in named], [label for (label, _), _ in named], fontsize=6, loc="best")
    else:
        axes.text(0.5, 0.5, "no such event in this run", transform=axes.transAxes, ha="center", color="0.5")
    axes.set_title(panel.title, fontsize=9)
    axes.set_ylabel(UNITS[panel.unit], fontsize=7)
    axes.set_ylim(0, None if any(_peak(line) for _, line in drawn.lines) else 1)
    axes.set_xlim(0, (end - start) / 60)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(labelsize=7)
    axes.grid(color="0.92")


def _peak(line: Line) -> float:
    return max((value for value in line.values if math.isfinite(value)), default=0.0)

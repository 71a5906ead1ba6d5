"""The commands that measure tasks beyond generating. Their tables are printed and stored beside the plots."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from engine.evaluation.cached_generator import CachedGenerator
from engine.evaluation.editing import (
    GIVEN,
    HARD,
    WITHHELD,
    Edited,
    Renders,
    complete,
    completions,
    exchanges,
    measure_edit,
)
from engine.evaluation.expanding import METHODS, OUTPAINTED, Expanded, Grid, agreement, expand
from engine.evaluation.figures import contact_sheet
from engine.evaluation.masks import MASKS, masks
from engine.request import Prefill
from engine.training.classifier import Classifier, load_classifier
from engine.training.demos import classifier_of
from engine.training.world.shapes import THINGS

FIGURES = ("recognised", "Fréchet", "seam", "hardness")
GUIDANCES = (("constant", True), ("linear", True), ("linear", False))


def editing(options: argparse.Namespace) -> None:
    """Completions behind every kind of mask, and exchanged objects."""
    generator, classifier, renders = _load(options)
    chosen = {name: value for name in ("steps", "guidance_scale") if (value := getattr(options, name)) is not None}
    settings = generator.settings("inpaint", **chosen)
    sheets: dict[str, dict[str, np.ndarray]] = {}
    note = f"{options.count} test renders a row; the Fréchet distance is to the same renders, untouched"
    head = ("mask", "filled by", *FIGURES)
    with _table(options.figures / "editing.md", head, note) as table:
        for mask in options.masks:
            found = {edited.name: edited for edited in completions(mask, generator, renders, classifier, settings)}
            for edited in found.values():
                table.row(mask, edited.name, *figures(edited))
            shown = {
                name.strip("*"): found[name].pictures for name in (GIVEN, HARD, WITHHELD, "mean colour", "diffusion")
            }
            sheets[mask] = {"render": renders.pictures, "mask": renders.behind(found[GIVEN].masks)} | shown
    sheets["exchange"] = {"render": renders.pictures}
    note = f"{options.count} test renders a row; recognised: as the new class; Fréchet distance to the old renders"
    with _table(options.figures / "editing-exchange.md", ("mask", *FIGURES), note) as table:
        for edited in exchanges(generator, renders, classifier, settings):
            table.row(edited.name, *figures(edited))
            mask = {edited.name: renders.behind(edited.masks)} if "hard" not in edited.name else {}
            sheets["exchange"] |= mask | {f"by {edited.name}": edited.pictures}
    for name, columns in sheets.items():
        _sheet(options, f"editing-{name}", columns)


def prefill(options: argparse.Namespace) -> None:
    """Compares ways to write fixed tokens to the cache and to count them in the guidance, with the class given."""
    generator, classifier, renders = _load(options)
    note = (
        f"{options.count} test renders a row, the class given; the Fréchet distance is to the same renders, untouched"
    )
    head = ("mask", "prefill", "guidance", "fixed tokens counted", *FIGURES)
    with _table(options.figures / "prefill.md", head, note) as table:
        for mask, way, guidance in product(options.masks, get_args(Prefill), GUIDANCES):
            schedule, counted = guidance
            scale = options.linear if schedule == "linear" else options.constant
            settings = generator.settings("inpaint", guidance_scale=scale, guidance_schedule=schedule)
            settings |= {"prefill": way, "guide_fixed_tokens": counted}
            hidden = masks(mask, len(renders.labels), renders.size)
            drawn = complete(generator, renders, hidden, renders.labels.tolist(), settings)
            edited = measure_edit(way, drawn, hidden, renders.labels, renders, classifier, smooth=True)
            counts = "-" if schedule == "constant" else "yes" if counted else "no"
            table.row(mask, way, f"{schedule} {scale:g}", counts, *figures(edited))


def expanding(options: argparse.Namespace) -> None:
    """Grids larger than the trained one, drawn by every method."""
    generator, classifier, renders = _load(options)
    found: dict[Grid, dict[str, Expanded]] = {grid: {} for grid in options.grids}
    settings = {
        method: generator.settings("outpaint" if method == OUTPAINTED else "expand") for method in options.methods
    }
    note = (
        f"{options.count} pictures a row; crops of the model's size; seams in levels of 255, the mean over the borders"
    )
    head = ("tokens", "method", "recognised whole", "in crops", "Fréchet of crops", "seam", "at each border")
    with _table(options.figures / "expand.md", head, note) as table:
        for grid, method in product(options.grids, options.methods):
            one = found[grid][method] = expand(grid, method, generator, renders, classifier, settings[method])
            each = " ".join(f"{border:+.1f}" for border in one.borders)
            seam = (f"{one.borders.mean():+.2f}", each) if each else ("-", "-")
            table.row(_size(grid), method, f"{one.whole:.3f}", f"{one.crops:.3f}", f"{one.frechet:.2f}", *seam)
    note = "share of tokens that agree; independent: samples of one class, with the deviation of a pair"
    compared = ("tokens", "method", "neighbouring windows", "independent", "bound: mean + 2σ")
    with _table(options.figures / "expand-agreement.md", compared, note) as table:
        for grid, method in product(options.grids, options.methods):
            if len(found[grid][method].windows) > 1:
                share = agreement(found[grid][method], generator, renders.labels, settings[method])
                independent = f"{share.independent:.4f} ± {share.deviation:.4f}"
                table.row(_size(grid), method, f"{share.neighbours:.4f}", independent, f"{share.bound:.4f}")
    for grid, methods in found.items():
        _sheet(options, f"expand-{_size(grid)}", {method: one.pictures for method, one in methods.items()})


class Table:
    """A Markdown table, printed row by row."""

    def __init__(self, head: Sequence[str]) -> None:
        self.lines: list[str] = []
        self.row(*head)
        self.say(f"|{'---|' * len(head)}")

    def row(self, *cells: object) -> None:
        self.say(f"| {' | '.join(map(str, cells))} |")

    def say(self, line: str) -> None:
        self.lines.append(line)
        print(line, flush=True)


@contextmanager
def _table(path: Path, head: Sequence[str], note: str) -> Iterator[Table]:
    """A table that is written to a file at the end, with a note below it."""
    table = Table(head)
    yield table
    table.say(f"\n{note}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(table.lines), encoding="utf-8")
    print(path)


def figures(edited: Edited) -> tuple[str, str, str, str]:
    """Cells for the columns of FIGURES."""
    return f"{edited.recognised:.3f}", f"{edited.frechet:.2f}", f"{edited.seam:.2f}", f"{edited.hardness:+.2f}"


def _sheet(options: argparse.Namespace, name: str, columns: Mapping[str, np.ndarray]) -> None:
    """Write a contact sheet: a row for each example, each of another class."""
    there = len(next(iter(columns.values())))
    count = min(options.examples, there)
    apart = max(1, min(there, len(THINGS)) // count)
    tiles = [column[i * apart] for i in range(count) for column in columns.values()]
    path = options.figures / f"{name}.webp"
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(tiles, len(columns), list(columns)).save(path, quality=90)
    print(path)


def _size(grid: Grid) -> str:
    return f"{grid[0]}x{grid[1]}"


def _load(options: argparse.Namespace) -> tuple[CachedGenerator, Classifier, Renders]:
    generator = CachedGenerator(options.model, options.runs / "samples", options.device)
    classifier = load_classifier(classifier_of(options.model), torch.device("cpu"))
    return generator, classifier, Renders.load(options.runs / "world", generator, classifier, options.count)


COMMANDS = {"editing": editing, "prefill": prefill, "expand": expanding}


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    edits = commands.add_parser(
        "editing", help="completions and exchanged objects, compared with methods without a model"
    )
    edits.add_argument("--count", type=int, default=320, help="test renders")
    edits.add_argument("--masks", nargs="+", choices=MASKS, default=list(MASKS), help="which masks; default: all")
    edits.add_argument("--steps", type=int, help="default: the model's")
    edits.add_argument("--guidance-scale", type=float, help="default: the model's")
    edits.add_argument("--examples", type=int, default=8, help="pictures a contact sheet shows")
    fills = commands.add_parser(
        "prefill", help="ways to write fixed tokens to the cache and to count them in the guidance"
    )
    fills.add_argument("--count", type=int, default=160, help="test renders")
    fills.add_argument(
        "--masks", nargs="+", choices=MASKS, default=["half", "centre"], help="which masks; default: half and centre"
    )
    fills.add_argument("--constant", type=float, default=1.5, help="guidance scale of the constant schedule")
    fills.add_argument("--linear", type=float, default=4.0, help="guidance scale of the linear schedule")
    grids = commands.add_parser("expand", help="grids larger than the trained one, drawn by every method")
    grids.add_argument("--count", type=int, default=64, help="pictures a row of the table")
    grids.add_argument(
        "--grids",
        nargs="+",
        type=_grid,
        default=[(24, 24), (32, 32), (16, 64)],
        metavar="ROWSxCOLS",
        help="grids in tokens; default: 24x24, 32x32 and 16x64",
    )
    grids.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), help="how to draw them; default: in every way"
    )
    grids.add_argument("--examples", type=int, default=8, help="pictures a contact sheet shows")


def _grid(text: str) -> Grid:
    rows, cols = text.split("x")
    return int(rows), int(cols)

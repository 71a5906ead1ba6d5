"""`arpg models`: what can be loaded by name, read from the model folders and the hub's cache; no torch, no network."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path, PurePosixPath

from safetensors import safe_open

from engine.models.model_index import HubFile, description, known_folders, on_disk, weights_of

HEADINGS = ("NAME", "FAMILY", "PARAMETERS", "PIXELS", "GRID", "LICENCE", "FROM", "SIZE", "STATE")
RIGHT_ALIGNED = frozenset({"PARAMETERS", "SIZE"})
NOTES = """

What is not cached is fetched when it is first loaded (arpg serve --model NAME; the extra `hub` does that).
MIT (code): the licence of the authors' code; their repository says what holds for the weights.
none given: the repository states no licence. Nothing of it is shipped here; downloading it is your own decision.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A model that goes by a name. parameters and size (bytes) are the transformer's, None where not known.
    text_encoder_weights: None for models that take classes. state: shipped, cached, partly cached (some of its files)
    or not cached."""

    name: str
    family: str
    description: str
    licence: str
    parameters: int | None
    grid: tuple[int, int]
    height: int
    width: int
    weights: str
    tokenizer_weights: str
    text_encoder_weights: str | None
    size: int | None
    state: str


def models(arguments: Namespace) -> int:
    """Prints a table, or JSON where arguments.json says so."""
    listed = sorted(map(read, known_folders().values()), key=lambda model: (model.family, model.parameters or 0))
    if arguments.json:
        print(json.dumps([asdict(model) for model in listed], indent=1))
    else:
        print(_table([HEADINGS, *map(_row, listed)]) + NOTES, end="")
    return 0


def read(folder: Path) -> Listed:
    data = description(folder)
    rows, cols = data["grid"]
    stride = 2 ** (len(data["tokenizer"]["channel_mult"]) - 1)
    encoder = data.get("text_encoder")
    files = [weights_of(folder, data), weights_of(folder, data["tokenizer"])]
    files += [] if encoder is None else _encoder_files(folder, encoder)
    found = [on_disk(file) for file in files]
    return Listed(
        name=data["name"],
        family=data["family"],
        description=data["description"],
        licence=data["licence"],
        parameters=data["parameters"] if "parameters" in data else _parameters(found[0]),
        grid=(rows, cols),
        height=rows * stride,
        width=cols * stride,
        weights=data["weights"],
        tokenizer_weights=data["tokenizer"]["weights"],
        text_encoder_weights=None if encoder is None else encoder["weights"],
        size=data.get("bytes") if found[0] is None else found[0].stat().st_size,
        state="shipped" if not any(isinstance(file, HubFile) for file in files) else _cached(found),
    )


def _encoder_files(folder: Path, entry: Mapping[str, str]) -> list[HubFile | Path]:
    """Config, tokenizer and weights; of weights in shards those that are known of: all, once their index is here."""
    files = [weights_of(folder, {"weights": entry[name]}) for name in ("config", "tokenizer", "weights")]
    index = on_disk(files[-1])
    if index is not None and index.name.endswith(".index.json") and isinstance(files[-1], HubFile):
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        place = PurePosixPath(files[-1].path)
        files += [replace(files[-1], path=str(place.with_name(name))) for name in sorted(names)]
    return files


def _cached(found: list[Path | None]) -> str:
    if all(found):
        return "cached"
    return "partly cached" if any(found) else "not cached"


def _parameters(weights: Path | None) -> int | None:
    """As the header of a safetensors file counts them."""
    if weights is None or weights.suffix != ".safetensors":
        return None
    with safe_open(weights, framework="numpy") as tensors:
        return sum(prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118 (no mapping)


def _row(model: Listed) -> tuple[str, ...]:
    repository = HubFile.parse(model.weights).repository if model.state != "shipped" else "here"
    return (
        model.name,
        model.family,
        _short(model.parameters),
        f"{model.width}×{model.height}",
        f"{model.grid[1]}×{model.grid[0]}",
        model.licence,
        repository,
        _short(model.size, "B"),
        model.state,
    )


def _short(number: int | None, unit: str = "") -> str:
    """2,190,000 → 2.2 M."""
    if number is None:
        return "?"
    for power, prefix in ((9, "G" if unit else "B"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {prefix}{unit}"
    return f"{number} {unit}".rstrip()


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if heading in RIGHT_ALIGNED else cell.ljust(width)
            for cell, width, heading in zip(row, widths, HEADINGS, strict=True)
        ).rstrip()
        for row in rows
    )

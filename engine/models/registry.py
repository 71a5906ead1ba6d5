"""Loads model folders: a model.json and the weights beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.card import ClassLabel, Defaults, ModelCard, class_labels
from engine.checks import check_request
from engine.codec import palettes
from engine.codec.vq import VQConfig, VQModel
from engine.models.checkpoint import CheckpointError, Unfilled, fingerprint, fit, load_state
from engine.models.families import FAMILIES, Builder
from engine.models.hub import weights_file
from engine.models.model_index import known_folders, shared_classes
from engine.models.network import Model
from engine.plans import Plan
from engine.request import Request


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model folder in memory. plan: makes the plan of a request. palette: uint8 (codes, 4, 4, 3); None: the folder
    has none."""

    card: ModelCard
    network: Model
    tokenizer: VQModel
    plan: Callable[[Request], Plan]
    palette: np.ndarray | None


def find(name: str | Path) -> Path:
    """The folder of a model, given by name or as a path. Raises CheckpointError when there is no model.json."""
    folders = known_folders()
    folder = folders.get(str(name), Path(name))
    if not (folder / "model.json").is_file():
        names = ", ".join(folders)
        raise CheckpointError(
            f"{name}: neither a shipped model nor a public one ({names}) nor a folder with a model.json"
        )
    return folder


def load(name: str | Path, *, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """Read a model folder. Raises CheckpointError, which names the file and the key that don't fit."""
    folder = find(name)
    description = folder / "model.json"
    try:
        data = json.loads(description.read_text())
        grid = (int(data["grid"][0]), int(data["grid"][1]))
        with Unfilled():
            architecture = _builder(data["family"])(data, grid)
            tokenizer = VQModel(_tokenizer_config(data["tokenizer"]))
        card = ModelCard(
            name=data["name"],
            family=data["family"],
            grid=grid,
            stride=tokenizer.config.stride,
            codebook_size=tokenizer.config.codebook_size,
            classes=_classes(data.get("classes"), architecture.num_classes),
            tasks=architecture.tasks,
            defaults=_defaults(data.get("defaults", {}), architecture.settings),
            settings=architecture.settings,
            steps=architecture.steps,
            licence=data.get("licence", ""),
            description=data.get("description", ""),
        )
        _check(card, architecture.network)
        weights = weights_file(folder, data)
        tokenizer_weights = weights_file(folder, data["tokenizer"])
        palette = palettes.load(folder / data["palette"], card.codebook_size) if "palette" in data else None
    except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
        raise CheckpointError(f"{description}: {type(error).__name__}: {error}") from error

    network = architecture.network
    rounded = "" if dtype == torch.float32 else f"-{str(dtype).removeprefix('torch.')}"
    card = replace(card, weights=fingerprint(weights) + rounded, tokenizer=fingerprint(tokenizer_weights))
    fit(network, load_state(weights), weights)
    fit(tokenizer, load_state(tokenizer_weights), tokenizer_weights)
    network.to(device=device, dtype=dtype).eval()
    tokenizer.to(device=device, dtype=torch.float32).eval()
    return LoadedModel(card, network, tokenizer, architecture.plan, palette)


def _builder(name: str) -> Builder:
    if name not in FAMILIES:
        raise ValueError(f"family: {name!r} is none of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _check(card: ModelCard, network: Model) -> None:
    """Raises ValueError when the name is invalid, or when transformer, tokenizer and defaults don't fit each other."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", card.name):
        raise ValueError(f"name: {card.name!r} may hold letters, digits, '_', '.' and '-' only")
    if network.vocab_size != card.codebook_size:
        raise ValueError(f"the transformer draws {network.vocab_size} codes, the tokenizer has {card.codebook_size}")
    check_request(
        Request(**asdict(card.defaults)),
        grid=card.grid,
        codebook_size=card.codebook_size,
        num_classes=len(card.classes),
    )


def _tokenizer_config(sizes: dict[str, Any]) -> VQConfig:
    values: dict[str, Any] = {k: v for k, v in sizes.items() if k not in ("weights", "sha256")}
    return VQConfig(**values | {"channel_mult": tuple(values["channel_mult"])})


def _classes(data: list[dict[str, Any]] | str | None, num_classes: int) -> tuple[ClassLabel, ...]:
    """The labels 0 … num_classes - 1. data: the classes, or the name of a list that models share; None: a class is
    named by its number."""
    if data is None:
        return tuple(ClassLabel(label, str(label)) for label in range(num_classes))
    classes = class_labels(shared_classes(data) if isinstance(data, str) else data)
    if [c.label for c in classes] != list(range(num_classes)):
        raise ValueError(f"classes: the labels must be 0 … {num_classes - 1}, in order")
    return classes


def _defaults(data: dict[str, Any], settings: tuple[str, ...]) -> Defaults:
    defaults = Defaults(**data)
    if idle := sorted(data.keys() - settings):
        raise ValueError(f"defaults: this family has no {', '.join(idle)}")
    return defaults

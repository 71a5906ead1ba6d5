"""Loads model folders: a model.json and the weights beside it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.card import SETTINGS, ClassLabel, Defaults, ModelCard, class_labels
from engine.checks import check_request
from engine.codec import palettes
from engine.codec.vq import VQConfig, VQModel
from engine.models.checkpoint import CheckpointError, Unfilled, fingerprint, fit, load_state
from engine.models.families import FAMILIES, Architecture, Builder
from engine.models.hub import weights_file
from engine.models.llamagen import LlamaGen
from engine.models.model_index import FIELDS, check_known, known_folders, record, shared_classes
from engine.models.network import Model
from engine.plans import Plan
from engine.request import Request, TextSizes

if TYPE_CHECKING:
    from engine.text.encoder import TextEncoder


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model folder in memory. plan: makes the plan of a request. palette: uint8 (codes, 4, 4, 3); None: the folder
    has none. text: the texts that the model takes; None: it takes classes. text_encoder: None: the folder names none,
    so requests need features."""

    card: ModelCard
    network: Model
    tokenizer: VQModel
    plan: Callable[[Request], Plan]
    palette: np.ndarray | None
    text: TextSizes | None = None
    text_encoder: TextEncoder | None = None


def find(name: str | Path) -> Path:
    """The folder of a model, given by name or as a path. Raises CheckpointError when there is no model.json."""
    folders = known_folders()
    folder = folders.get(str(name), Path(name))
    if (folder / "model.json").is_file():
        return folder
    if folder.is_dir():
        raise CheckpointError(f"{name}: the folder has no model.json, which describes a model (docs/models.md)")
    near = get_close_matches(str(name).lower(), folders)
    known = f"did you mean {' or '.join(near)}?" if near else f"known by name are {', '.join(folders)}"
    raise CheckpointError(f"{name}: neither a model's name nor a folder with a model.json; {known}")


def load(name: str | Path, *, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """Read a model folder. Raises CheckpointError, which names the file and the key that don't fit."""
    folder = find(name)
    description = folder / "model.json"
    try:
        data = json.loads(description.read_text())
        check_known(data, FIELDS)
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
            classes=_classes(data.get("classes"), architecture),
            tasks=architecture.tasks,
            defaults=_defaults("defaults", data.get("defaults", {}), architecture),
            task_defaults=_task_defaults(data.get("task_defaults", {}), architecture),
            settings=architecture.settings,
            conditioning="class" if architecture.text is None else "text",
            condition_rows=1 if architecture.text is None else architecture.text.rows,
            example_prompts=_example_prompts(data.get("example_prompts", []), architecture),
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
    encoder = _encoder(folder, data, architecture.text, device=device, dtype=dtype)
    rounded = "" if dtype == torch.float32 else f"-{str(dtype).removeprefix('torch.')}"
    drawn_by = fingerprint(weights)
    if encoder is not None:  # another encoder makes other pictures of the same prompt
        drawn_by = hashlib.sha256(f"{drawn_by}{encoder.fingerprint}".encode()).hexdigest()[:16]
    card = replace(card, weights=drawn_by + rounded, tokenizer=fingerprint(tokenizer_weights))
    state = load_state(weights)
    fit(network, state, weights)
    _check_heads(network, state, weights)
    fit(tokenizer, load_state(tokenizer_weights), tokenizer_weights)
    network.to(device=device, dtype=dtype).eval()
    tokenizer.to(device=device, dtype=torch.float32).eval()
    return LoadedModel(card, network, tokenizer, architecture.plan, palette, architecture.text, encoder)


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
    for task in card.tasks:
        check_request(
            Request(**asdict(card.defaults_of(task))),
            grid=card.grid,
            codebook_size=card.codebook_size,
            num_classes=len(card.classes),
            text=None if card.conditioning == "class" else TextSizes(),
        )


def _check_heads(network: Model, state: dict[str, torch.Tensor], path: Path) -> None:
    """The number of heads changes no shape of the weights, but some files of LlamaGen's kind hold the authors' rotary
    table, whose width it does change. Raises CheckpointError."""
    if not isinstance(network, LlamaGen) or "freqs_cis" not in state:
        return
    pairs, saved = network.kv_shape.head_dim // 2, tuple(state["freqs_cis"].shape)
    if saved[-2:] != (pairs, 2):
        heads = f"n_head {network.kv_shape.heads} makes heads of {pairs} rotated pairs"
        raise CheckpointError(f"{path} does not fit {type(network).__name__}: {heads}, but freqs_cis is {saved}")


def _encoder(
    folder: Path, data: dict[str, Any], text: TextSizes | None, *, device: torch.device, dtype: torch.dtype
) -> TextEncoder | None:
    """The encoder, which reads no more of a prompt than the transformer takes. Raises CheckpointError when it can't be
    loaded, or when its rows are of another width."""
    entry, description = data.get("text_encoder"), folder / "model.json"
    if entry is None:
        return None
    if text is None:
        raise CheckpointError(f"{description}: text_encoder: this family takes classes; leave it out")
    from engine.models.text_encoders import load_text_encoder  # tokenizers and ftfy are for models that take text

    try:
        whole = torch.float32 if dtype == torch.float32 else torch.bfloat16  # T5 overflows float16
        encoder = load_text_encoder(folder, entry, device=device, dtype=whole)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{description}: text_encoder: {error}") from error
    if encoder.width != text.width:
        widths = f"its rows are {encoder.width} wide, and the transformer takes rows of width {text.width}"
        raise CheckpointError(f"{description}: text_encoder: {widths}")
    encoder.max_rows = min(encoder.max_rows, text.rows)
    return encoder


def _tokenizer_config(sizes: dict[str, Any]) -> VQConfig:
    values = {name: value for name, value in sizes.items() if name not in ("weights", "sha256")}
    config = record(VQConfig, values, "tokenizer")
    return replace(config, channel_mult=tuple(config.channel_mult))


def _classes(data: list[dict[str, Any]] | str | None, architecture: Architecture) -> tuple[ClassLabel, ...]:
    """The labels 0 … num_classes - 1. data: the classes, or the name of a list that models share; None: a class is
    named by its number."""
    num_classes = architecture.num_classes
    if architecture.text is not None and data:
        raise ValueError("classes: this family takes text; leave them out")
    if data is None:
        return tuple(ClassLabel(label, str(label)) for label in range(num_classes))
    classes = class_labels(shared_classes(data) if isinstance(data, str) else data)
    if [c.label for c in classes] != list(range(num_classes)):
        raise ValueError(f"classes: the labels must be 0 … {num_classes - 1}, in order")
    return classes


def _defaults(place: str, data: dict[str, Any], architecture: Architecture) -> Defaults:
    if idle := sorted(data.keys() & set(SETTINGS) - set(architecture.settings)):
        raise ValueError(f"{place}: this family has no {', '.join(idle)}")
    return record(Defaults, data, place)


def _task_defaults(data: dict[str, dict[str, Any]], architecture: Architecture) -> dict[str, dict[str, Any]]:
    if strange := sorted(data.keys() - architecture.tasks):
        raise ValueError(f"task_defaults: {', '.join(strange)}: this family does {', '.join(architecture.tasks)}")
    for task, values in data.items():
        _defaults(f"task_defaults.{task}", values, architecture)
    return data


def _example_prompts(data: list[str], architecture: Architecture) -> tuple[str, ...]:
    if architecture.text is None and data:
        raise ValueError("example_prompts: this family takes no text; leave them out")
    if not isinstance(data, list) or not all(isinstance(prompt, str) and prompt.strip() for prompt in data):
        raise ValueError(f"example_prompts: {data!r} is no list of texts that are not empty")
    return tuple(data)

"""Loads the text encoder that a model.json names, in the public format of google/flan-t5-xl."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from engine.models.checkpoint import CheckpointError, Unfilled, fingerprint, fit, load_state
from engine.models.hub import shard_files, weights_file
from engine.text.encoder import TextEncoder
from engine.text.t5 import DECODER, TIED, T5Config, T5Encoder

PRECISIONS = (torch.float32, torch.bfloat16)


def load_text_encoder(
    folder: Path, entry: Mapping[str, Any], *, device: torch.device, dtype: torch.dtype
) -> TextEncoder:
    """The encoder of a model folder. entry: "text_encoder" of its model.json: "config", "weights" and "tokenizer", each
    a file in the folder or on the hub (hub:owner/name/file), and optionally "sha256" of the weights. These may be those
    of the whole model: the decoder is not read. They may lie in shards beside a .safetensors.index.json, which "sha256"
    is then of.

    Raises CheckpointError with the file and what does not fit, ValueError for another precision than float32 and
    bfloat16, in which T5's values fit."""
    if dtype not in PRECISIONS:
        raise ValueError(f"dtype: T5 needs float32 or bfloat16, got {str(dtype).removeprefix('torch.')}")
    if problems := sorted({"config", "weights", "tokenizer"} ^ (entry.keys() - {"sha256"})):
        raise ValueError(f"text_encoder: must have config, weights and tokenizer; missing or unknown: {problems}")
    config_file, tokenizer_file = (weights_file(folder, {"weights": entry[name]}) for name in ("config", "tokenizer"))
    weights = weights_file(folder, entry)
    files = [config_file, tokenizer_file, *shard_files(entry, weights)]
    prints = [fingerprint(file) for file in files]  # also refuses what is not there
    with Unfilled():
        network = T5Encoder(_config(config_file))
    fit(network, _encoder_state(weights), weights)
    network.to(device=device, dtype=dtype).requires_grad_(False)
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise CheckpointError(f"{tokenizer_file}: not a readable tokenizer ({error})") from error
    try:
        return TextEncoder(network, tokenizer, hashlib.sha256("".join(prints).encode()).hexdigest()[:16])
    except ValueError as error:
        raise CheckpointError(f"{tokenizer_file}: {error}") from error


def _config(path: Path) -> T5Config:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("must be an object")
        return T5Config.from_json(data)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _encoder_state(path: Path) -> dict[str, Tensor]:
    """The weights without the decoder and without a second copy of the embeddings."""
    state = load_state(path, skip=DECODER)
    copy = state.pop(TIED, None)
    if copy is not None and not torch.equal(copy, state.setdefault("shared.weight", copy)):
        raise CheckpointError(f"{path}: {TIED} differs from shared.weight; T5 has one table of embeddings")
    return state

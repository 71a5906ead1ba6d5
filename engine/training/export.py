"""Writes model folders from training checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.codec import palettes
from engine.codec.palettes import PATCH
from engine.codec.vq import VQConfig, VQModel
from engine.training.loop import save_half
from engine.training.world.shapes import THINGS

TOKENIZER = "vq.safetensors"
PALETTE = "palette.png"


def palette(codes: Tensor, pictures: Tensor, config: VQConfig) -> np.ndarray:
    """Mean patch of every code over real pictures, uint8 (codebook_size, 4, 4, 3).

    codes (n, rows · cols) are those of the uint8 pictures (n, 3, H, W). An unused code gets the mean of all
    patches.
    """
    n, _, height, width = pictures.shape
    rows, cols = height // config.stride, width // config.stride
    small = torch.nn.functional.adaptive_avg_pool2d(pictures.float(), (rows * PATCH, cols * PATCH))
    patches = small.view(n, 3, rows, PATCH, cols, PATCH).permute(0, 2, 4, 3, 5, 1).flatten(0, 2)
    index = codes.long().flatten()
    sums = torch.zeros(config.codebook_size, *patches.shape[1:]).index_add_(0, index, patches)
    counts = torch.bincount(index, minlength=config.codebook_size).view(-1, 1, 1, 1)
    means = torch.where(counts > 0, sums / counts.clamp_min(1), patches.mean(0))
    return (means + 0.5).clamp(0, 255).to(torch.uint8).numpy()


def export_transformer(folder: Path, demo: dict[str, Any], weights: dict[str, Tensor], tokenizer: VQConfig) -> None:
    """Write the weights (float16) and the model.json of one of DEMOS. The tokenizer stays in the ARPG's folder."""
    classes = [{"label": n, "name": thing.name, "synonyms": list(thing.synonyms)} for n, thing in enumerate(THINGS)]
    write_folder(folder, demo | {"classes": classes}, weights, tokenizer)


def write_folder(folder: Path, description: dict[str, Any], weights: dict[str, Tensor], tokenizer: VQConfig) -> None:
    """Write the weights (float16) and a model.json that names them, the tokenizer and the palette."""
    folder.mkdir(parents=True, exist_ok=True)
    file = f"{description['family']}.safetensors"
    save_half(weights, folder / file)
    shared = "" if description["family"] == "arpg" else "../demo/"
    entries = {
        "licence": "Apache-2.0",
        "weights": file,
        "tokenizer": {"weights": f"{shared}{TOKENIZER}"} | asdict(tokenizer),
        "palette": f"{shared}{PALETTE}",
    }
    (folder / "model.json").write_text(json.dumps(description | entries, indent=1) + "\n")


def export_tokenizer(folder: Path, weights: dict[str, Tensor], patches: np.ndarray) -> None:
    """Write the weights (float16) and the palette."""
    folder.mkdir(parents=True, exist_ok=True)
    save_half(weights, folder / TOKENIZER)
    palettes.save(folder / PALETTE, patches)


def load_tokenizer(state: dict[str, Tensor], config: VQConfig) -> VQModel:
    model = VQModel(config)
    model.load_state_dict(state)
    return model.eval()

"""From checkpoints to a model folder that the engine loads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.models.arpg import ARPGConfig
from engine.models.vq import VQConfig, VQModel
from engine.training.loop import save_half
from engine.training.shapes import THINGS

PALETTE_COLUMNS = 32
PATCH = 4  # pixels a side


def palette(codes: Tensor, pictures: Tensor, config: VQConfig) -> np.ndarray:
    """Mean patch of every code over real pictures, uint8 (codebook_size, 4, 4, 3).

    codes (n, rows · cols) are those of the uint8 pictures (n, 3, H, W). A code that none of them uses gets the
    mean of all patches.
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


def palette_image(patches: np.ndarray) -> Image.Image:
    """Code v at row v // 32, column v % 32, 4×4 pixels each."""
    rows = -(-len(patches) // PALETTE_COLUMNS)
    cells = np.zeros((rows * PALETTE_COLUMNS, PATCH, PATCH, 3), np.uint8)
    cells[: len(patches)] = patches
    grid = cells.reshape(rows, PALETTE_COLUMNS, PATCH, PATCH, 3).swapaxes(1, 2)
    return Image.fromarray(grid.reshape(rows * PATCH, PALETTE_COLUMNS * PATCH, 3))


def export_model(
    folder: Path,
    *,
    tokenizer: dict[str, Tensor],
    tokenizer_config: VQConfig,
    transformer: dict[str, Tensor],
    transformer_config: ARPGConfig,
    grid: tuple[int, int],
    first_cell: int | None,
    patches: np.ndarray,
    defaults: dict[str, Any],
) -> None:
    """Write weights (float16), palette and model.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_half(transformer, folder / "arpg.safetensors")
    save_half(tokenizer, folder / "vq.safetensors")
    palette_image(patches).save(folder / "palette.png")
    description = {
        "name": "demo",
        "family": "arpg",
        "description": "Sixteen kinds of things on a floor under a sky, 128×128 pixels, drawn by the project itself.",
        "licence": "Apache-2.0",
        "weights": "arpg.safetensors",
        "transformer": asdict(transformer_config),
        "grid": list(grid),
        "first_cell": first_cell,
        "tokenizer": {"weights": "vq.safetensors"} | asdict(tokenizer_config),
        "palette": "palette.png",
        "classes": [
            {"label": label, "name": thing.name, "synonyms": list(thing.synonyms)} for label, thing in enumerate(THINGS)
        ],
        "defaults": defaults,
    }
    (folder / "model.json").write_text(json.dumps(description, indent=1) + "\n")


def load_tokenizer(state: dict[str, Tensor], config: VQConfig) -> VQModel:
    model = VQModel(config)
    model.load_state_dict(state)
    return model.eval()

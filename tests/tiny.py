"""Small models for tests: a folder around the golden weights, and one of any size with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine.models.arpg import ARPG, ARPGConfig
from engine.models.vq import VQConfig, VQModel

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def golden_config(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


GOLDEN_TRANSFORMER = {k: v for k, v in golden_config("arpg_tiny")["config"].items() if k != "block_size"}
GOLDEN_TOKENIZER = {
    "codebook_size": 48,
    "codebook_dim": 8,
    "channels": 32,
    "channel_mult": [1, 2, 2],
    "z_channels": 32,
    "encoder_res_blocks": 1,
    "decoder_res_blocks": 1,
}


def write_folder(
    folder: Path, *, transformer: dict[str, Any], tokenizer: dict[str, Any], grid: tuple[int, int], name: str
) -> Path:
    """model.json of a folder whose weights are arpg.safetensors and vq.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = [{"label": label, "name": f"class {label}"} for label in range(transformer["num_classes"])]
    description = {
        "name": name,
        "family": "arpg",
        "weights": "arpg.safetensors",
        "transformer": transformer,
        "grid": grid,
        "tokenizer": {"weights": "vq.safetensors", **tokenizer},
        "classes": classes,
    }
    (folder / "model.json").write_text(json.dumps(description))
    return folder


def golden_folder(folder: Path) -> Path:
    """The golden ARPG (4×4 grid, 48 codes) and the golden VQ (4 pixels a token) as one model."""
    write_folder(folder, transformer=GOLDEN_TRANSFORMER, tokenizer=GOLDEN_TOKENIZER, grid=(4, 4), name="golden")
    for link, weights in (("arpg.safetensors", "arpg_tiny"), ("vq.safetensors", "vq_tiny")):
        (folder / link).symlink_to(GOLDEN / f"{weights}.weights.safetensors")
    return folder


def random_folder(
    folder: Path,
    *,
    dim: int = 64,
    n_layer: int = 4,
    n_head: int = 2,
    codes: int = 64,
    num_classes: int = 4,
    grid: tuple[int, int] = (8, 8),
) -> Path:
    """A model with random weights, spread enough that its distributions are neither flat nor certain."""
    transformer = {
        "dim": dim, "n_layer": n_layer, "n_head": n_head, "multiple_of": 32,
        "vocab_size": codes, "num_classes": num_classes,
    }  # fmt: skip
    tokenizer = {
        "codebook_size": codes, "codebook_dim": 8, "channels": 32, "channel_mult": [1, 1],
        "z_channels": 32, "encoder_res_blocks": 1, "decoder_res_blocks": 1,
    }  # fmt: skip
    write_folder(folder, transformer=transformer, tokenizer=tokenizer, grid=grid, name="random")
    generator = torch.Generator().manual_seed(0)
    network = ARPG(ARPGConfig(**transformer))
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5 * parameter.shape[-1] ** -0.5, generator=generator)
    torch.nn.init.normal_(network.head.weight, std=1.5 * dim**-0.5, generator=generator)
    save_file(network.state_dict(), folder / "arpg.safetensors")
    torch.manual_seed(0)
    tokenizer_config = {k: tuple(v) if isinstance(v, list) else v for k, v in tokenizer.items()}
    save_file(VQModel(VQConfig(**tokenizer_config)).state_dict(), folder / "vq.safetensors")
    return folder

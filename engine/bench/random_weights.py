"""Model folders with random weights, to measure a public model without its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.bench.static_batch.loop import arpg_config
from engine.bench.static_batch.network import StaticNetwork
from engine.codec.vq import VQConfig, VQModel
from engine.models import registry
from engine.models.model_index import description

SCALE = 0.5
HEAD_SCALE = 1.5
"""Standard deviations in units of 1/√width: the distributions are neither flat nor certain."""


def random_folder(model: str | Path, folder: Path) -> Path:
    """A copy of an ARPG's folder with random weights. Raises CheckpointError when there is no such model."""
    data = description(registry.find(model))
    data["weights"], data["tokenizer"]["weights"] = "arpg.safetensors", "vq.safetensors"
    for entry in (data, data["tokenizer"]):
        entry.pop("sha256", None)
    data.pop("palette", None)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps(data))
    network = StaticNetwork(arpg_config(data)).state_dict()
    save_file(_random(network), folder / data["weights"])
    sizes = {name: value for name, value in data["tokenizer"].items() if name != "weights"}
    tokenizer = VQModel(VQConfig(**sizes | {"channel_mult": tuple(sizes["channel_mult"])}))
    save_file(tokenizer.state_dict(), folder / "vq.safetensors")
    return folder


def _random(state: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    for name, weight in state.items():
        if weight.dim() > 1:
            scale = HEAD_SCALE if name == "head.weight" else SCALE
            nn.init.normal_(weight, std=scale * weight.shape[-1] ** -0.5, generator=generator)
    return state

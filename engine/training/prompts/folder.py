"""The model folder of a PromptedARPG: the transformer, and its text encoder in the format of the public ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from engine.codec.vq import VQConfig
from engine.models.arpg import ARPGConfig
from engine.training.export import write_folder
from engine.training.loop import save_half
from engine.training.prompts.network import encoder_config, from_class_weights, public_config
from engine.training.prompts.vocabulary import caption_tokenizer

TRANSFORMER = "arpg-t2i.safetensors"
ENCODER = {
    "config": "text_encoder/config.json",
    "weights": "text_encoder/model.safetensors",
    "tokenizer": "text_encoder/tokenizer.json",
}
_PARTS = {"transformer.": TRANSFORMER, "text_encoder.": ENCODER["weights"]}


def export_prompted(folder: Path, demo: dict[str, Any], weights: dict[str, Tensor], tokenizer: VQConfig) -> None:
    parts = {
        file: {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        for prefix, file in _PARTS.items()
    }
    description = {name: value for name, value in demo.items() if name != "encoder"} | {"text_encoder": ENCODER}
    write_folder(folder, description, parts[TRANSFORMER], tokenizer)
    save_half(parts[ENCODER["weights"]], folder / ENCODER["weights"])
    (folder / ENCODER["config"]).write_text(json.dumps(public_config(encoder_config(demo)), indent=1) + "\n")
    caption_tokenizer().save(str(folder / ENCODER["tokenizer"]))


def weights_to_begin_with(folder: Path, class_model: Path, demo: dict[str, Any]) -> dict[str, Tensor]:
    """Those of a folder that export_prompted wrote; without one, those that a class-conditional model has."""
    if (folder / TRANSFORMER).exists():
        return {
            f"{prefix}{name}": value.float()
            for prefix, file in _PARTS.items()
            for name, value in load_file(folder / file).items()
        }
    config = ARPGConfig(**demo["transformer"], num_classes=0)
    return from_class_weights(load_file(class_model / "arpg.safetensors"), config)

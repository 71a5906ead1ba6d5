"""Quality along a training: measures the weights stored during the run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models import registry
from engine.models.arpg import ARPG
from engine.training.batches import TransformerRecipe, draw_batch
from engine.training.forward import AnyOrder

LOSS_STEPS = 8


def kept_weights(runs: Path) -> list[tuple[int, Path]]:
    """Steps and files of the stored weights, in order."""
    found = [(int(path.stem.split("-")[1]), path) for path in runs.glob("arpg-[0-9]*.safetensors")]
    if not found:
        raise FileNotFoundError(f"no weights were kept in {runs}: run `arpg train arpg`")
    return sorted(found)


@contextmanager
def model_with(model: Path, weights: Path) -> Iterator[Path]:
    """A copy of a model folder with other weights."""
    description = json.loads((model / "model.json").read_text())
    description["weights"] = str(weights.resolve())
    description["tokenizer"]["weights"] = str((model / description["tokenizer"]["weights"]).resolve())
    description.pop("palette", None)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.json").write_text(json.dumps(description))
        yield Path(folder)


@torch.inference_mode()
def held_out_loss(model: Path, codes: Tensor) -> float:
    """Loss in nats for each token of unseen token maps (n, positions); map i has label i % classes. The orders are the
    same for all weights."""
    loaded = registry.load(model, device=torch.device("cpu"), dtype=torch.float32)
    network, classes = loaded.network, len(loaded.card.classes)
    assert isinstance(network, ARPG)
    objective = AnyOrder(network, loaded.card.grid)
    first_cell = json.loads((model / "model.json").read_text()).get("first_cell")
    recipe = TransformerRecipe(class_dropout=0.0, first_cell=first_cell)
    losses = []
    for step in range(LOSS_STEPS):
        batch = draw_batch(codes, classes, recipe, step)
        logits, wanted = objective(network, batch.ids, batch.conditions, batch.orders)
        losses.append(F.cross_entropy(logits.flatten(0, 1), wanted.flatten()))
    return torch.stack(losses).mean().item()

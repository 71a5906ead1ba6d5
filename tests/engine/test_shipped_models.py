"""The weights in the repository are small and draw the requested classes."""

from __future__ import annotations

import pytest
import torch

from engine.core.engine import Engine
from engine.evaluation.asking import asking_for
from engine.models.model_index import known_folders
from engine.request import Request
from engine.training.classifier import classify, load_classifier
from engine.training.demos import CLASSIFIER, DEMO, DEMOS, WEIGHTS

SHIPPED = [demo["name"] for demo in DEMOS.values()]
LABELS = (0, 4, 9, 13)


def test_the_shipped_weights_are_small() -> None:
    folders = known_folders().values()
    sizes = {folder: sum(file.stat().st_size for file in folder.rglob("*.safetensors")) for folder in folders}
    assert sum(sizes.values()) <= 40e6
    assert sizes[WEIGHTS / "demo-text"] <= 10e6
    assert sum(size for folder, size in sizes.items() if folder.name not in ("demo", "demo-text")) <= 10e6


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_draws_what_it_is_asked_for(name: str) -> None:
    """The classifier recognises nearly every picture with the models' defaults; with broken weights one in sixteen."""
    engine = Engine.load(name, device="cpu")
    defaults = {
        field: getattr(engine.model.defaults_of("generate"), field)
        for field in engine.model.settings
        if field != "order"
    }
    tokens = engine.generate([Request(**asking_for(engine, label), seed=1, **defaults) for label in LABELS])
    pictures = torch.stack([torch.from_numpy(p).permute(2, 0, 1) for p in engine.codec.decode_many(tokens)])
    seen = classify(load_classifier(DEMO / CLASSIFIER, torch.device("cpu")), pictures)
    assert seen.share(torch.tensor(LABELS)) >= 0.75

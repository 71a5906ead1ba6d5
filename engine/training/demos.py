"""The shipped models: their model.json without classes and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parent.parent / "weights"
DEMO = WEIGHTS / "demo"
CLASSIFIER = "judge.safetensors"
"""In the ARPG's folder; the other models are measured with it too."""


def classifier_of(model: Path) -> Path:
    """The weights of the classifier that a model is measured with: its own, else demo's."""
    own = model / CLASSIFIER
    return own if own.exists() else DEMO / CLASSIFIER


WORLD = "Sixteen kinds of things on a floor under a sky, 128×128 pixels, drawn by the project itself"
_GRID = [16, 16]
_SMALL = {"dim": 128, "n_layer": 7, "n_head": 2, "multiple_of": 64, "vocab_size": 512, "num_classes": 16}
_LARGER = {"dim": 192, "n_layer": 8, "n_head": 3, "multiple_of": 64, "vocab_size": 512}
_MIDDLE = 136
_GUIDED = {"guidance_scale": 1.5, "temperature": 0.8}
_ANY_ORDER = {
    "steps": 64,
    "schedule": "cosine",  # its first steps draw one token each
    "guidance_schedule": "constant",
    "content_attention": "blockwise",
    **_GUIDED,
}

DEMOS: dict[str, dict[str, Any]] = {
    "arpg": {
        "name": "demo",
        "family": "arpg",
        "grid": _GRID,
        "description": f"{WORLD}.",
        "transformer": _LARGER | {"num_classes": 16},
        "first_cell": _MIDDLE,
        "defaults": _ANY_ORDER,
    },
    "arpg-t2i": {
        "name": "demo-text",
        "family": "arpg-t2i",
        "grid": _GRID,
        "description": f"{WORLD}; takes prompts, and draws none to several things.",
        "transformer": _LARGER,
        "text": {"rows": 24, "width": 128},
        "encoder": {"d_kv": 32, "d_ff": 256, "num_layers": 3, "num_heads": 4},
        "first_cell": _MIDDLE,
        "defaults": _ANY_ORDER | {"guidance_scale": 3.0},  # two things by "and" need more than one does
        "task_defaults": {"outpaint": {"top_p": 0.6}},  # a window goes on with what went wrong in the one before
        "example_prompts": [
            "a red mushroom on a green floor",
            "a blue house under a sunset sky",
            "a green tree and a red chair",
            "a yellow rocket",
            "a teal cone right of a purple gem",
            "a purple table on a sandy floor",
            "a green pyramid far away",
        ],
    },
    "llamagen": {
        "name": "demo-llamagen",
        "family": "llamagen",
        "grid": _GRID,
        "description": f"{WORLD}; token by token in raster order.",
        "transformer": _SMALL,
        "defaults": _GUIDED,
    },
    "par-4x": {
        "name": "demo-par-4x",
        "family": "par",
        "grid": _GRID,
        "description": f"{WORLD}; four regions side by side.",
        "transformer": _SMALL,
        "regions": 4,
        "defaults": _GUIDED,
    },
    "par-16x": {
        "name": "demo-par-16x",
        "family": "par",
        "grid": _GRID,
        "description": f"{WORLD}; sixteen regions side by side.",
        "transformer": _SMALL,
        "regions": 16,
        "defaults": _GUIDED,
    },
}

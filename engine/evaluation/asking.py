"""How a model is asked for a thing of the demo's world: by its class, or by its name as a prompt."""

from __future__ import annotations

from typing import Any

from engine.core.engine import Engine
from engine.training.world.shapes import THINGS


def asking_for(engine: Engine, label: int | None) -> dict[str, Any]:
    """Fields of a Request; label None: for no thing, so unconditional."""
    if label is None:
        return {}
    if engine.text_encoder is None:
        return {"class_label": int(label)}
    return asking_with(engine, THINGS[label].name)


def asking_with(engine: Engine, prompt: str) -> dict[str, Any]:
    """Fields of a Request. Raises SystemExit when the model takes classes."""
    if engine.text_encoder is None:
        raise SystemExit(f"{engine.model.name} takes classes, not prompts: choose another --model, such as demo-text")
    return {"prompt": engine.text_encoder.encode(prompt)}

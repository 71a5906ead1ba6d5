"""Draws pictures for prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.evaluation.asking import asking_with
from engine.evaluation.cached_generator import CachedGenerator
from engine.request import Request

TWENTY = (
    "a red mushroom",
    "a purple mug on a green floor",
    "a yellow rocket under a sunset sky",
    "a teal house on a sandy floor",
    "a green tree, lit from the left",
    "a blue star",
    "an orange cone on a grey floor under a teal sky",
    "a pink snowman under a blue sky",
    "a red ball",
    "a yellow chair on a brown floor",
    "a blue table",
    "a purple gem",
    "a green donut",
    "an orange box",
    "a pink column",
    "a teal pyramid under a sunset sky",
    "a red mug and a blue cube",
    "a yellow star to the left of a purple tree",
    "a blue house and a green cone on a sandy floor",
    "a red rocket next to a teal ball",
)


def draw_prompts(
    generator: CachedGenerator, prompts: Sequence[str], settings: Mapping[str, Any], seed: int = 0
) -> np.ndarray:
    """uint8 (n, H, W, 3): picture i of prompt i, from seed + i."""
    asked = enumerate(prompts, start=seed)
    requests = [Request(**asking_with(generator.engine, text), seed=place, **settings) for place, text in asked]
    return generator.decode(generator.draw(requests))

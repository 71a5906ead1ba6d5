"""Pictures with recipes, for the tests of `arpg verify`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from engine.core.engine import Engine
from engine.request import Request
from service.tasks.pictures import recipe
from service.tasks.pictures.images import encode

REQUEST = Request(class_label=2, seed=9, steps=6, guidance_scale=2.0)
Verify = Callable[[bytes], tuple[int, str, str]]


def drawn(engine: Engine, request: Request, **more: Any) -> bytes:
    [tokens] = engine.generate([request])
    return finished(engine, tokens, request, **more)


def finished(
    engine: Engine, tokens: np.ndarray, request: Request, shown: np.ndarray | None = None, **more: Any
) -> bytes:
    """The PNG of a token map, with its recipe. shown: the picture, where it is not just what the tokens decode to."""
    pixels = engine.codec.decode(tokens) if shown is None else shown
    about: dict[str, Any] = {"class_name": "class 2", "composited": shown is not None} | more
    text = recipe.write(pixels, tokens, request, engine.model, **about)
    return encode(pixels, "png", text={recipe.KEYWORD: text})


def retold(file: bytes, shown: np.ndarray, **fields: Any) -> bytes:
    """The same pixels under a recipe that says something else."""
    said = json.loads(recipe.text_of(file) or "") | fields
    return encode(shown, "png", text={recipe.KEYWORD: json.dumps(said)})


def pixels_of(file: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(file)))

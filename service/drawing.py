"""`arpg generate` and `arpg inpaint`: the library, straight to a picture file, without a server."""

from __future__ import annotations

import secrets
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.card import SETTINGS
from engine.inpainting import composite, fit, known_tokens, token_mask
from engine.noise import image_seed
from engine.request import MAX_SEED, Request
from service import images
from service.images import Format, Limits
from service.problems import Problem
from service.resolve import check_task, find_class, sampling
from service.settings import Settings
from service.worker.engines import load_engine

if TYPE_CHECKING:
    from engine.engine import Engine


def generate(arguments: Namespace, settings: Settings) -> int:
    engine = _engine(settings, "generate")
    requests = _requests(arguments, engine, "generate", {})
    _save(arguments.output, _draw(engine, requests), requests)
    return 0


def inpaint(arguments: Namespace, settings: Settings) -> int:
    limits = Limits(settings.max_pixels, settings.max_side)
    image_file = arguments.image.read_bytes()
    image = images.decode_image(image_file, "image", limits)
    mask_file = image_file if arguments.mask is None else arguments.mask.read_bytes()
    mask = images.decode_mask(mask_file, "mask", arguments.mask_mode, limits)
    images.check_mask(mask, image)

    engine = _engine(settings, "inpaint")
    card = engine.model
    tokens = engine.codec.encode(fit(image, (card.height, card.width)))
    known = known_tokens(tokens, token_mask(mask, card.grid))
    requests = _requests(arguments, engine, "inpaint", known)
    drawn = _draw(engine, requests)
    _save(arguments.output, [composite(image, d, mask, arguments.feather) for d in drawn], requests)
    return 0


def _engine(settings: Settings, task: str) -> Engine:
    if len(settings.models) > 1:
        raise Problem.field("model", f"say which: {', '.join(settings.models)}", "model_needed")
    engine = load_engine(settings, settings.models[0])
    check_task(task, engine.model)
    return engine


def _requests(arguments: Namespace, engine: Engine, task: str, known: dict[int, int]) -> list[Request]:
    found = find_class(arguments.class_, engine.model.classes)
    values = sampling({name: getattr(arguments, name, None) for name in SETTINGS}, engine.model)
    chosen = {name: value for name, value in values.items() if value is not None}
    seed = secrets.randbelow(MAX_SEED + 1) if arguments.seed is None else arguments.seed
    label = None if found is None else found.label
    return [
        Request(class_label=label, seed=image_seed(seed, index), known=known, task=task, **chosen)
        for index in range(arguments.n)
    ]


def _draw(engine: Engine, requests: list[Request]) -> list[np.ndarray]:
    """Pictures uint8 (H, W, 3)."""
    began = time.monotonic()
    pictures = engine.codec.decode_many(engine.generate(requests))
    print(f"drawn in {time.monotonic() - began:.1f} s", file=sys.stderr)
    return pictures


def _save(output: Path, pictures: list[np.ndarray], requests: list[Request]) -> None:
    suffix = output.suffix.lower().lstrip(".")
    format: Format = {"jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}.get(suffix, "png")  # type: ignore[assignment]
    for index, (picture, request) in enumerate(zip(pictures, requests, strict=True)):
        path = output if len(pictures) == 1 else output.with_stem(f"{output.stem}-{index}")
        path.write_bytes(images.encode(picture, format))
        print(f"{path}  seed {request.seed}")

"""`arpg generate` and `arpg inpaint`: the library, straight to a picture file, without a server."""

from __future__ import annotations

import secrets
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.inpainting import composite, fit, known_tokens, token_mask
from engine.noise import image_seed
from engine.request import MAX_SEED, Request
from service import images
from service.images import Format, Limits
from service.resolve import find_class
from service.settings import Settings

if TYPE_CHECKING:
    from engine.engine import Engine

SAMPLING = (
    "steps",
    "schedule",
    "guidance_scale",
    "guidance_schedule",
    "content_attention",
    "temperature",
    "top_k",
    "top_p",
)


def generate(arguments: Namespace, settings: Settings) -> int:
    engine = _engine(settings)
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

    engine = _engine(settings)
    card = engine.model
    tokens = engine.codec.encode(fit(image, (card.height, card.width)))
    known = known_tokens(tokens, token_mask(mask, card.grid))
    requests = _requests(arguments, engine, "inpaint", known)
    drawn = _draw(engine, requests)
    _save(arguments.output, [composite(image, d, mask, arguments.feather) for d in drawn], requests)
    return 0


def _engine(settings: Settings) -> Engine:
    from engine.engine import Engine, EngineConfig

    config = EngineConfig(batch_invariant=settings.batch_invariant)
    return Engine.load(settings.model, device=settings.device, config=config)


def _requests(arguments: Namespace, engine: Engine, task: str, known: dict[int, int]) -> list[Request]:
    found = find_class(arguments.class_, engine.model.classes)
    chosen: dict[str, Any] = {
        name: getattr(engine.model.defaults, name) if getattr(arguments, name) is None else getattr(arguments, name)
        for name in SAMPLING
    }
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

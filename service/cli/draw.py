"""`arpg generate`, `expand`, `inpaint`, `outpaint` and `vary`: the library, straight to a picture file, without a
server."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.editing.masks import token_mask
from engine.editing.windows import generate_windowed
from service.errors import Problem
from service.settings import Settings
from service.tasks.canvas import Canvas, expanded, outpainted, redrawn, varied, whole
from service.tasks.drawing import layout_of
from service.tasks.fields import ExpandRequest, GenerateRequest, InpaintFields, OutpaintFields, VaryFields
from service.tasks.images import Format, Limits, transcode
from service.tasks.inputs import Picture, finished, request_of
from service.tasks.sampling import check_task, resolve, seeded
from service.tasks.sources import source_of
from service.tasks.uploads import read_image, read_mask
from service.worker.engine_loading import load_engine

if TYPE_CHECKING:
    from engine.card import ModelCard
    from engine.core.engine import Engine

QUALITY = 90


@dataclass(frozen=True, slots=True)
class Given:
    """The picture that a drawing starts from: pixels uint8 (H, W, 3), mask bool (H, W), and the files of both as
    PNG."""

    pixels: np.ndarray
    files: dict[str, bytes]
    mask: np.ndarray | None = None


def draw(arguments: Namespace, settings: Settings) -> int:
    fields = seeded(arguments.fields)
    given = _given(arguments, fields, Limits(settings.max_pixels, settings.max_side))
    engine = _engine(settings, arguments.command)
    canvas, more = _canvas(fields, given, engine.model)
    payload = resolve(fields, engine.model, arguments.command, canvas) | more
    began = time.monotonic()
    pictures = _draw(engine, payload, given)
    print(f"drawn in {time.monotonic() - began:.1f} s", file=sys.stderr)
    _save(arguments.output, pictures, payload["seeds"])
    return 0


def _given(arguments: Namespace, fields: GenerateRequest, limits: Limits) -> Given | None:
    """Raises ImageError, FileNotFoundError."""
    if not hasattr(arguments, "image"):
        return None
    file = arguments.image.read_bytes()
    pixels, png = read_image(file, limits)
    if not isinstance(fields, InpaintFields):
        return Given(pixels, {"image": png})
    mask_file = None if arguments.mask is None else arguments.mask.read_bytes()
    mask, mask_png = read_mask(mask_file, file, pixels, fields.mask_mode, limits)
    return Given(pixels, {"image": png, "mask": mask_png}, mask)


def _engine(settings: Settings, task: str) -> Engine:
    if len(settings.models) > 1:
        raise Problem.field("model", f"say which: {', '.join(settings.models)}", "model_needed")
    engine = load_engine(settings, settings.models[0])
    check_task(task, engine.model)
    return engine


def _canvas(fields: GenerateRequest, given: Given | None, card: ModelCard) -> tuple[Canvas, dict[str, Any]]:
    """And what it adds to the payload."""
    if given is None:
        return expanded(fields, card) if isinstance(fields, ExpandRequest) else whole(card), {}
    size = (given.pixels.shape[0], given.pixels.shape[1])
    if isinstance(fields, OutpaintFields):
        return outpainted(fields, size, card)[0], {}
    if isinstance(fields, VaryFields):
        canvas, keep_seed = varied(fields, card.grid, size, card)
        return canvas, {"keep_seed": keep_seed}
    assert given.mask is not None
    return redrawn(token_mask(given.mask, card.grid), size, card), {}


def _draw(engine: Engine, payload: dict[str, Any], given: Given | None) -> list[Picture]:
    card, codec = engine.model, engine.codec
    source = None if given is None else source_of(payload, given.files, card, codec)
    layout = layout_of(payload, source, card)
    requests = [request_of(payload, index, {}) for index in range(payload["n"])]
    generations = [layout.generation(request) for request in requests]
    generate_windowed(engine, generations)
    name, corners = payload["class_name"], layout.corners
    return [
        finished(generation.tokens, source, codec, card, request, name, windows=corners)
        for generation, request in zip(generations, requests, strict=True)
    ]


def _save(output: Path, pictures: list[Picture], seeds: list[int]) -> None:
    suffix = output.suffix.lower().lstrip(".")
    format: Format = {"jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}.get(suffix, "png")  # type: ignore[assignment]
    for index, (picture, seed) in enumerate(zip(pictures, seeds, strict=True)):
        path = output if len(pictures) == 1 else output.with_stem(f"{output.stem}-{index}")
        path.write_bytes(picture.png if format == "png" else transcode(picture.png, format, QUALITY))
        print(f"{path}  seed {seed}")

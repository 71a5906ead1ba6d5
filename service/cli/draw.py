"""`arpg generate`, `expand`, `inpaint`, `outpaint` and `vary`: plan as the API does, draw and save."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.editing.windows import generate_windowed
from service.errors import Problem
from service.jobs.result import JobWarning
from service.jobs.spec import JobSpec
from service.settings import Settings
from service.tasks import drawing
from service.tasks.drawing import FinishedPicture
from service.tasks.pictures.errors import Limits
from service.tasks.pictures.images import Format, transcode
from service.tasks.pictures.inputs import load_canvas, open_inputs
from service.tasks.pictures.uploads import facts_and_files
from service.tasks.planning import check_task, with_seed
from service.tasks.registry import TASKS
from service.tasks.task import PictureFacts, Task
from service.worker.engine_loading import load_engine

if TYPE_CHECKING:
    from engine.core.engine import Engine

QUALITY = 90


def draw(arguments: Namespace, settings: Settings) -> int:
    task = TASKS[arguments.command]
    files = {name: path.read_bytes() for name in task.files if (path := getattr(arguments, name)) is not None}
    engine = _engine(settings, task)
    facts: PictureFacts | None = None
    uploads: dict[str, bytes] = {}
    if files:
        limits = Limits(settings.max_pixels, settings.max_side)
        mask_mode = getattr(arguments.fields, "mask_mode", None)
        facts, uploads = facts_and_files(files["image"], files.get("mask"), mask_mode, limits, engine.model)
    spec = task.plan(with_seed(arguments.fields), facts, engine.model)
    began = time.monotonic()
    pictures, warnings = _draw(engine, spec, uploads)
    print(f"drawn in {time.monotonic() - began:.1f} s", file=sys.stderr)
    for warning in warnings:
        print(f"arpg: warning: {warning.message}", file=sys.stderr)
    _save(arguments.output, pictures, spec.seeds)
    return 0


def _engine(settings: Settings, task: Task) -> Engine:
    if len(settings.models) > 1:
        raise Problem.field("model", f"say which: {', '.join(settings.models)}", "model_needed")
    engine = load_engine(settings, settings.models[0])
    check_task(task.name, engine.model)
    return engine


def _draw(
    engine: Engine, spec: JobSpec, uploads: dict[str, bytes]
) -> tuple[list[FinishedPicture], tuple[JobWarning, ...]]:
    inputs = open_inputs(dict(uploads))
    canvas = load_canvas(spec, inputs, engine.codec)
    prompts, warnings = drawing.encode_prompts(spec, engine.text_encoder)
    requests = drawing.requests(spec, engine.model, prompts)
    generations = [drawing.generation(spec, canvas, request) for request in requests]
    generate_windowed(engine, generations)
    pictures = [
        drawing.finish(spec, request, tokens, engine.codec.decode(tokens), inputs=inputs, card=engine.model)
        for request, tokens in zip(requests, (generation.tokens for generation in generations), strict=True)
    ]
    return pictures, warnings


def _save(output: Path, pictures: list[FinishedPicture], seeds: tuple[int, ...]) -> None:
    suffix = output.suffix.lower().lstrip(".")
    format: Format = {"jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}.get(suffix, "png")  # type: ignore[assignment]
    for index, (picture, seed) in enumerate(zip(pictures, seeds, strict=True)):
        path = output if len(pictures) == 1 else output.with_stem(f"{output.stem}-{index}")
        path.write_bytes(picture.png if format == "png" else transcode(picture.png, format, QUALITY))
        print(f"{path}  seed {seed}")

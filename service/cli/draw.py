"""The drawing commands without a server: plan as the API does, and draw."""

from __future__ import annotations

import io
import time
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engine.editing.windows import generate_windowed
from service.cli import output
from service.cli.output import Drawn, Result
from service.cli.terminal.progress import Progress
from service.errors import Problem
from service.jobs.result import JobWarning
from service.jobs.spec import JobSpec
from service.settings import Settings
from service.tasks import drawing
from service.tasks.drawing import FinishedPicture
from service.tasks.pictures.errors import Limits
from service.tasks.pictures.images import transcode
from service.tasks.pictures.inputs import load_canvas, open_inputs
from service.tasks.pictures.uploads import facts_and_files
from service.tasks.planning import check_task, with_seed
from service.tasks.registry import TASKS
from service.tasks.sampling import classes_of
from service.tasks.task import PictureFacts, Task
from service.worker.engine_loading import load_engine

CLASSES_SHOWN = 16
"""An error names so many classes."""

if TYPE_CHECKING:
    from engine.card import ModelCard
    from engine.core.engine import Engine
    from engine.editing.windows import WindowedGeneration
    from engine.request import StepOutput


def draw(arguments: Namespace, settings: Settings) -> Result:
    task = TASKS[arguments.command]
    files = {name: path.read_bytes() for name in task.files if (path := getattr(arguments, name)) is not None}
    with Progress() as progress:
        progress.say(f"loading {', '.join(settings.models)}")
        engine = _engine(settings, task)
        facts: PictureFacts | None = None
        uploads: dict[str, bytes] = {}
        if files:
            limits = Limits(settings.max_pixels, settings.max_side)
            mask_mode = getattr(arguments.fields, "mask_mode", None)
            facts, uploads = facts_and_files(files["image"], files.get("mask"), mask_mode, limits, engine.model)
        try:
            spec = task.plan(with_seed(arguments.fields), facts, engine.model)
        except Problem as problem:
            raise _with_class_names(problem, engine.model) from None
        began = time.monotonic()
        pictures, warnings = _draw(engine, spec, uploads, progress)
        seconds = time.monotonic() - began
        progress.finish([np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB")) for picture in pictures])
    format = output.format_of(arguments.output)
    return Result(
        task=task.name,
        model=spec.model,
        seconds=seconds,
        pictures=[
            Drawn(
                picture.png if format == "png" else transcode(picture.png, format, arguments.fields.quality),
                seed,
                picture.width,
                picture.height,
            )
            for picture, seed in zip(pictures, spec.seeds, strict=True)
        ],
        warnings=warnings,
    )


def _with_class_names(problem: Problem, card: ModelCard) -> Problem:
    """The API's messages say which route lists the model's classes. Here is none, so they name some."""
    names = [each.name for each in card.classes]
    more = f" and {len(names) - CLASSES_SHOWN} others" if len(names) > CLASSES_SHOWN else ""
    route, named = classes_of(card.name), f"{', '.join(names[:CLASSES_SHOWN])}{more}"
    errors = [replace(error, message=error.message.replace(route, named)) for error in problem.errors]
    return Problem(problem.status, problem.code, problem.detail.replace(route, named), errors=errors)


def _engine(settings: Settings, task: Task) -> Engine:
    if len(settings.models) > 1:
        raise Problem.field(
            "model",
            f"this command uses one model; choose one with --model: {', '.join(settings.models)}",
            "model_needed",
        )
    engine = load_engine(settings, settings.models[0])
    check_task(task.name, engine.model)
    return engine


def _draw(
    engine: Engine, spec: JobSpec, uploads: dict[str, bytes], progress: Progress
) -> tuple[list[FinishedPicture], tuple[JobWarning, ...]]:
    inputs = open_inputs(dict(uploads))
    canvas = load_canvas(spec, inputs, engine.codec)
    prompts, warnings = drawing.encode_prompts(spec, engine.text_encoder)
    requests = drawing.requests(spec, engine.model, prompts)
    generations = [drawing.generation(spec, canvas, request) for request in requests]
    progress.start(
        [generation.tokens for generation in generations],
        None if progress.colours is None else engine.codec.palette(),
    )

    def drew(generation: WindowedGeneration, step: StepOutput) -> None:
        progress.draw(generations.index(generation), step)

    generate_windowed(engine, generations, drew)
    pictures = [
        drawing.finish(spec, request, tokens, engine.codec.decode(tokens), inputs=inputs, card=engine.model)
        for request, tokens in zip(requests, (generation.tokens for generation in generations), strict=True)
    ]
    return pictures, warnings

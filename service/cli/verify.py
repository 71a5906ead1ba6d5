"""`arpg verify`: draws a picture again from the recipe in it, and compares tokens and pixels.

Anybody can write a recipe, so it decides how much is drawn only within bounds, and its text is cleaned before it is
printed.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from itertools import pairwise
from typing import TYPE_CHECKING, TextIO

import numpy as np

from engine.editing.outpainting import LARGEST
from engine.models.model_index import known_folders
from engine.request import EMPTY, RequestError
from service.cli import composites
from service.jobs.spec import ClassCondition, Condition, ForkOrigin, JobSpec, NoCondition, Output, TextCondition
from service.settings import Settings
from service.tasks import drawing
from service.tasks.pictures import recipe
from service.tasks.pictures.errors import ImageError, Limits
from service.tasks.pictures.images import decode_image
from service.tasks.pictures.recipe import Recipe, RecipeError
from service.worker.engine_loading import load_engine

if TYPE_CHECKING:
    from engine.card import ModelCard
    from engine.core.engine import Engine

SAME, DIFFERS, UNDECIDED, PARTLY = 0, 1, 2, 3
"""PARTLY: what was drawn is the same; other pixels are another picture's, and were not compared."""

MAX_WINDOWS = 32
"""Twice what any canvas needs."""

Step = tuple[int, ...]
"""The canvas positions that one step drew."""


def verify(arguments: Namespace, settings: Settings) -> int:
    """SAME, DIFFERS, UNDECIDED or PARTLY, having said why."""
    try:
        file = arguments.picture.read_bytes()
        pixels = decode_image(file, "picture", Limits(settings.max_pixels, settings.max_side))
        told = recipe.read(recipe.text_of(file))
        _say(f"drawn by {told.model}: {_described(told)}")
        same = _check_pixels_are_told_of(told, pixels)
        engine = _engine(told, arguments.models, settings)
        composites.check(told, (pixels.shape[0], pixels.shape[1]), engine.model)
        tokens, steps = redraw(engine, told)
    except (ImageError, RecipeError, RequestError, OSError) as error:
        _say(f"arpg: {arguments.picture}: can't say: {error}", file=sys.stderr)
        return UNDECIDED
    same &= _check_tokens(told, tokens, steps)
    decoded, shown = engine.codec.decode(told.tokens), composites.as_shown(file, pixels)
    if not told.composited:
        return SAME if _check_pixels(shown, decoded) and same else DIFFERS
    seen = composites.compare(told, shown, decoded, engine.model, converted=shown is not pixels)
    _say_compared(seen)
    if not (same and seen.agrees):
        return DIFFERS
    return SAME if seen.whole else PARTLY


def _say(text: str, file: TextIO | None = None) -> None:
    """Prints a line without control characters: a recipe's text may hold commands for the terminal."""
    print("".join(char if char.isprintable() else "\ufffd" for char in text), file=file)


def redraw(engine: Engine, told: Recipe) -> tuple[np.ndarray, list[Step]]:
    """The tokens int32 (rows, cols), and what each step drew. Given tokens are taken from the recipe's map. A fork is
    drawn from its first ancestor on, each as far as the next one shares its steps.

    Raises RequestError or RecipeError where the model can't draw it.
    """
    spec = _spec(told, engine.model)
    canvas = np.where(spec.fixed_cells, told.tokens, EMPTY).astype(np.int32)
    first, *later = [*(seed for _, seed in told.forks), told.seed]
    ends: list[int | None] = [*(step for step, _ in told.forks), None]
    tokens, steps = _draw(engine, spec.model_copy(update={"seeds": (first,)}), canvas, ends[0])
    for depth, seed in enumerate(later, start=1):
        forks = told.forks[:depth]
        fork = ForkOrigin(job="", image=0, step=forks[-1][0], seeds=forks, replayed=tokens)
        tokens, more = _draw(engine, spec.model_copy(update={"seeds": (seed,), "fork": fork}), canvas, ends[depth])
        steps += more
    return tokens, steps


def _spec(told: Recipe, card: ModelCard) -> JobSpec:
    """The job of this picture alone, without its forks, as a PNG of what its tokens decode to. Raises RecipeError where
    no job draws so much, or where its windows are not those of a job."""
    rows, cols = grid = told.known.shape[0], told.known.shape[1]
    if rows * cols > LARGEST * card.positions:
        raise RecipeError(
            f"its recipe tells of {rows}×{cols} tokens; {card.name} draws at most {LARGEST * card.positions}"
        )
    if len(told.windows) > MAX_WINDOWS:
        raise RecipeError(
            f"its recipe tells of {len(told.windows)} windows, and no picture has more than {MAX_WINDOWS}"
        )
    if any(later <= earlier for (earlier, _), (later, _) in pairwise(told.forks)):
        raise RecipeError("its recipe tells of a fork at an earlier step than the fork before it")
    window_shape = card.grid if told.windows else grid
    if told.windows and told.forks:
        raise RecipeError("its recipe tells of a fork of a picture in windows")
    if any(row + window_shape[0] > rows or col + window_shape[1] > cols for row, col in told.windows):
        raise RecipeError("its recipe has a window that reaches beyond the canvas")
    return JobSpec(
        task=told.task,
        model=told.model,
        condition=_condition(told),
        seeds=(told.seed,),
        sampling=told.sampling,
        grid=grid,
        window_shape=window_shape,
        windows=told.windows,
        rope_scaling=told.rope_scaling,
        size=(rows * card.stride, cols * card.stride),
        fixed_cells=told.known,
        output=Output(format="png", quality=100, previews=0),
    )


def _condition(told: Recipe) -> Condition:
    if told.prompt is not None:
        return TextCondition(prompt=told.prompt, negative_prompt=told.negative_prompt)
    if told.class_label is not None:
        return ClassCondition(label=told.class_label, name=told.class_name or "")
    return NoCondition()


def _draw(engine: Engine, spec: JobSpec, canvas: np.ndarray, end: int | None = None) -> tuple[np.ndarray, list[Step]]:
    """end: the step after which it stops; None: the last one."""
    prompts, _ = drawing.encode_prompts(spec, engine.text_encoder)
    [template] = drawing.fork_requests(spec, canvas, engine.model, engine.fork, prompts)
    generation, steps = drawing.generation(spec, canvas, template), []
    while (request := generation.next_request()) is not None:
        id = engine.add(request)
        while not engine.idle:
            for output in map(generation.update, engine.step()):
                steps.append(output.positions)
                if output.step == end:
                    engine.abort(id)
                    return generation.tokens, steps
    return generation.tokens, steps


def _engine(told: Recipe, models: list[str] | None, settings: Settings) -> Engine:
    if models is None and told.model not in known_folders():
        raise RecipeError(f"no model here is named {told.model}; name its folder with --model")
    if models is not None and len(models) > 1:
        raise RecipeError("--model: give it once; a picture has one model")
    from engine.models.checkpoint import CheckpointError
    from engine.ops.choice import DeviceError

    try:
        engine = load_engine(settings, told.model if models is None else models[0])
    except (CheckpointError, DeviceError) as error:
        raise RecipeError(str(error)) from error
    card = engine.model
    if (told.weights, told.tokenizer) != (card.weights, card.tokenizer):
        here, there = f"{card.weights}, {card.tokenizer}", f"{told.weights}, {told.tokenizer}"
        raise RecipeError(f"it was drawn with other weights: {there} there, {here} here (transformer, tokenizer)")
    if told.tokens.max() >= card.codebook_size:
        raise RecipeError(f"its recipe has a token that is not in the codebook of {card.codebook_size}")
    return engine


def _described(told: Recipe) -> str:
    rows, cols = told.tokens.shape
    thing = "no class" if told.class_label is None else f"class {told.class_label} {told.class_name or ''}".strip()
    if told.prompt is not None:
        thing = f'prompt "{told.prompt}"' + (f', not "{told.negative_prompt}"' if told.negative_prompt else "")
    given = f", {told.known.sum()} of them given" if told.known.any() else ""
    return f"{told.task}, {thing}, seed {told.seed}, {rows}×{cols} tokens{given}"


def _say_compared(seen: composites.Comparison) -> None:
    if not seen.compared:
        _say(f"pixels: none could be compared: there are no {seen.of}")
    else:
        _say(f"pixels: {seen.same} of {seen.compared} compared are what the tokens decode to; compared were {seen.of}")
    if not seen.agrees:
        _say("pixels: too many differ. A mask with holes may be why" if "redrawn" in seen.of else "pixels: some differ")
    elif not seen.whole:
        _say("pixels: all others are unchecked: they may be another picture's")


def _check_pixels_are_told_of(told: Recipe, pixels: np.ndarray) -> bool:
    if told.is_of(pixels):
        return True
    _say("pixels: changed since the recipe was written")
    return False


def _check_tokens(told: Recipe, tokens: np.ndarray, steps: list[Step]) -> bool:
    wrong = tokens != told.tokens
    drawn = int((~told.known).sum())
    if not wrong.any():
        _say(f"tokens: all {drawn} that were drawn are the same")
        return True
    first = next((step for step, cells in enumerate(steps, start=1) if wrong.flat[list(cells)].any()), 0)
    _say(
        f"tokens: {wrong.sum()} of {drawn} that were drawn differ, from step {first} of {len(steps)} on. One changed "
        "token changes all later ones. Float rounding depends on which pictures shared a step, and may be the only "
        "cause. To rule it out on a CPU, draw and verify with ARPG_BATCH_INVARIANT=1"
    )
    return False


def _check_pixels(pixels: np.ndarray, decoded: np.ndarray) -> bool:
    """Are they what the map decodes to?"""
    if pixels.shape != decoded.shape:
        (height, width), (rows, cols) = pixels.shape[:2], decoded.shape[:2]
        _say(f"pixels: {width}×{height}, and the tokens decode to {cols}×{rows}")
        return False
    by = np.abs(pixels.astype(int) - decoded).max(-1)
    says = f"{np.count_nonzero(by)} of {by.size} differ from the decoded tokens, by up to {by.max()} of 255"
    _say(f"pixels: {says}" if by.any() else "pixels: all are the decoded tokens'")
    return bool(by.max() <= composites.ROUNDING)

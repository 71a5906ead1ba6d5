"""`arpg verify`: draws a picture again from the recipe in it, and compares tokens and pixels."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from engine.editing.windows import WindowedGeneration
from engine.models.model_index import known_folders
from engine.request import EMPTY, Request, RequestError, Window
from service.settings import Settings
from service.tasks.pictures import recipe
from service.tasks.pictures.images import ImageError, Limits, decode_image
from service.tasks.pictures.recipe import Recipe, RecipeError
from service.worker.engine_loading import load_engine

if TYPE_CHECKING:
    from engine.core.engine import Engine
    from engine.request import RequestOutput

SAME, DIFFERS, UNDECIDED = 0, 1, 2

ROUNDING = 2
"""Levels by which a pixel may differ and still be the same: another machine's decoder rounds otherwise."""

Step = tuple[int, ...]
"""The canvas positions that one step drew."""


def verify(arguments: Namespace, settings: Settings) -> int:
    """SAME, DIFFERS or UNDECIDED, having said why."""
    try:
        file = arguments.picture.read_bytes()
        pixels = decode_image(file, "picture", Limits(settings.max_pixels, settings.max_side))
        told = recipe.read(recipe.text_of(file))
        print(f"drawn by {told.model}: {_described(told)}")
        same = _check_pixels_are_told_of(told, pixels)
        engine = _engine(told, arguments.models, settings)
        tokens, steps = redraw(engine, told)
    except (ImageError, RecipeError, RequestError, OSError) as error:
        print(f"arpg: {arguments.picture}: can't say: {error}", file=sys.stderr)
        return UNDECIDED
    same &= _check_tokens(told, tokens, steps)
    if not told.composited:
        same &= _check_pixels(pixels, engine.codec.decode(told.tokens))
    return SAME if same else DIFFERS


def redraw(engine: Engine, told: Recipe) -> tuple[np.ndarray, list[Step]]:
    """The tokens int32 (rows, cols), and what each step drew. Given tokens are taken from the recipe's map.

    Raises RequestError or RecipeError where the model can't draw it.
    """
    canvas = np.where(told.known, told.tokens, EMPTY).astype(np.int32)
    return _in_windows(engine, told, canvas) if told.windows else _at_once(engine, told, canvas)


def _at_once(engine: Engine, told: Recipe, canvas: np.ndarray) -> tuple[np.ndarray, list[Step]]:
    """A fork is drawn from its first ancestor on: each to the end, as its steps are the next one's."""
    known = {int(cell): int(canvas.flat[cell]) for cell in np.flatnonzero(told.known)}
    rows, cols = canvas.shape
    grid = None if (rows, cols) == engine.model.grid else (rows, cols)
    seeds = [seed for _, seed in told.forks] + [told.request.seed]
    request = replace(told.request, fixed_tokens=known, grid=grid, seed=seeds[0])
    steps = _draw(engine, request, canvas)
    for (step, _), seed in zip(told.forks, seeds[1:], strict=True):
        request = engine.fork(request, dict(enumerate(canvas.ravel().tolist())), step, seed)
        _draw(engine, request, canvas)
    return canvas, steps


def _in_windows(engine: Engine, told: Recipe, canvas: np.ndarray) -> tuple[np.ndarray, list[Step]]:
    rows, cols = engine.model.grid
    if told.forks:
        raise RecipeError("its recipe tells of a fork of a picture in windows")
    if any(row + rows > canvas.shape[0] or col + cols > canvas.shape[1] for row, col in told.windows):
        raise RecipeError("its recipe has a window that reaches beyond the canvas")
    windows = [Window(row, col, canvas.shape[1]) for row, col in told.windows]
    generation, steps = WindowedGeneration(told.request, canvas, windows, (rows, cols)), []
    while (request := generation.next_request()) is not None:
        steps += [generation.update(update).positions for update in _updates(engine, request)]
    return generation.tokens, steps


def _draw(engine: Engine, request: Request, canvas: np.ndarray) -> list[Step]:
    steps = []
    for update in _updates(engine, request):
        canvas.flat[list(update.positions)] = update.tokens
        steps.append(update.positions)
    return steps


def _updates(engine: Engine, request: Request) -> Iterator[RequestOutput]:
    engine.add(request)
    while not engine.idle:
        yield from engine.step()


def _engine(told: Recipe, models: list[str] | None, settings: Settings) -> Engine:
    if models is None and told.model not in known_folders():
        raise RecipeError(f"its model, {told.model}, goes by no name here; say where it is with --model")
    if models is not None and len(models) > 1:
        raise RecipeError("--model is there more than once")
    from engine.models.checkpoint import CheckpointError

    try:
        engine = load_engine(settings, told.model if models is None else models[0])
    except CheckpointError as error:
        raise RecipeError(str(error)) from error
    card = engine.model
    if (told.weights, told.tokenizer) != (card.weights, card.tokenizer):
        here, there = f"{card.weights}, {card.tokenizer}", f"{told.weights}, {told.tokenizer}"
        raise RecipeError(f"it was drawn with other weights: {there} there, {here} here (transformer, tokenizer)")
    if told.tokens.max() >= card.codebook_size:
        raise RecipeError(f"its recipe has a token that is not in the codebook of {card.codebook_size}")
    return engine


def _described(told: Recipe) -> str:
    request, (rows, cols) = told.request, told.tokens.shape
    thing = (
        "no class" if request.class_label is None else f"class {request.class_label} {told.class_name or ''}".strip()
    )
    given = f", {told.known.sum()} of them given" if told.known.any() else ""
    return f"{request.task}, {thing}, seed {request.seed}, {rows}×{cols} tokens{given}"


def _check_pixels_are_told_of(told: Recipe, pixels: np.ndarray) -> bool:
    if told.is_of(pixels):
        return True
    print("pixels: changed since the recipe was written")
    return False


def _check_tokens(told: Recipe, tokens: np.ndarray, steps: list[Step]) -> bool:
    wrong = tokens != told.tokens
    drawn = int((~told.known).sum())
    if not wrong.any():
        print(f"tokens: all {drawn} that were drawn are the same")
        return True
    first = next((step for step, cells in enumerate(steps, start=1) if wrong.flat[list(cells)].any()), 0)
    print(
        f"tokens: {wrong.sum()} of {drawn} that were drawn differ, from step {first} of {len(steps)} on. A single one "
        "changes what comes after it, and sums round by who shares a step: that alone may be why. With "
        "ARPG_BATCH_INVARIANT=1, there and here, it is not, on a CPU"
    )
    return False


def _check_pixels(pixels: np.ndarray, decoded: np.ndarray) -> bool:
    """Are they what the map decodes to?"""
    if pixels.shape != decoded.shape:
        (height, width), (rows, cols) = pixels.shape[:2], decoded.shape[:2]
        print(f"pixels: {width}×{height}, and the tokens decode to {cols}×{rows}")
        return False
    by = np.abs(pixels.astype(int) - decoded).max(-1)
    says = f"{np.count_nonzero(by)} of {by.size} differ from the decoded tokens, by up to {by.max()} of 255"
    print(f"pixels: {says}" if by.any() else "pixels: all are the decoded tokens'")
    return bool(by.max() <= ROUNDING)

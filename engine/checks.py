"""Checks every field of a request: its type, and its bounds for a model.

Numbers of numpy are taken as Python's: arithmetic on an int8 would overflow. A bool is no number.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np

from engine.request import (
    CHOICES,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
    MAX_TOP_K,
    Request,
    RequestError,
    TextFeatures,
    TextSizes,
    Window,
)

MAX_CANVAS_SIDE = 2**16
"""Rows or columns of the canvas that a window lies on."""

MAX_INT32 = 2**31 - 1

MAX_TASK = 100
"""Characters."""


def check_request(
    request: Request,
    *,
    grid: tuple[int, int],
    codebook_size: int,
    num_classes: int,
    any_order: bool = True,
    text: TextSizes | None = None,
) -> Request:
    """The request with plain Python values in place of numpy's. Raises RequestError with the first field whose type is
    wrong, or that is out of bounds for a model of these sizes. any_order: whether the model draws in any order, and so
    around fixed tokens and on other grids. text: the texts that it takes; None: it takes classes."""
    values: dict[str, Any] = {
        "class_label": _class_label(request.class_label, num_classes, text),
        "seed": checked_seed(request.seed),
        "steps": whole("steps", request.steps, 1, MAX_STEPS),
        **{name: _choice(name, getattr(request, name), choices) for name, choices in CHOICES.items()},
        "guidance_scale": number("guidance_scale", request.guidance_scale, 0, 100),
        "guidance_interval": None
        if request.guidance_interval is None
        else whole("guidance_interval", request.guidance_interval, 0, MAX_INT32),
        "temperature": number("temperature", request.temperature, 0, 100),
        "top_k": whole("top_k", request.top_k, 0, MAX_TOP_K),
        "top_p": number("top_p", request.top_p, 0, 1),
        "guide_fixed_tokens": flag("guide_fixed_tokens", request.guide_fixed_tokens),
        "task": _task(request.task),
        "grid": None if request.grid is None else _grid(request.grid),
        "order": None if request.order is None else _positions("order", request.order),
        "fixed_tokens": _tokens("fixed_tokens", request.fixed_tokens),
        "replayed_tokens": _tokens("replayed_tokens", request.replayed_tokens),
    }
    for name in ("prompt", "negative_prompt"):
        if getattr(request, name) is not None:
            _check_features(name, getattr(request, name), text)
    if request.negative_prompt is not None:
        if request.prompt is None:
            raise RequestError("negative_prompt", "needs a prompt; without one there is nothing to guide")
        if values["guidance_scale"] == 1 or values["guidance_interval"] == 0:
            raise RequestError("negative_prompt", "needs guidance: a guidance_scale that is not 1, or leave it out")
    if values["top_p"] == 0:
        raise RequestError("top_p", "must be above 0 and at most 1, got 0")
    if not any_order:
        for name in ("fixed_tokens", "order", "grid"):
            if values[name]:
                raise RequestError(name, "this model draws every position of its own grid, in a fixed order")
    rows, cols = values["grid"] or grid
    values["window"] = None if request.window is None else _window(request.window, cols)
    checked = replace(request, **values)
    _check_canvas(checked, rows * cols, codebook_size)
    return checked


def checked_seed(seed: Any) -> int:
    """Raises RequestError unless it is an integer of 64 bits that is not negative."""
    try:
        return whole("seed", seed, 0, MAX_SEED)
    except RequestError as error:
        if isinstance(seed, Integral) and seed < 0:
            raise RequestError("seed", f"{error.reason}; for a random picture, choose a random seed") from None
        raise


def whole(name: str, value: Any, least: int, most: int) -> int:
    """An integer, numpy's too, within bounds. Raises RequestError."""
    number = _integer(name, value)
    if not least <= number <= most:
        raise RequestError(name, f"must be between {least} and {most}, got {_shown(number)}")
    return number


def _integer(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise RequestError(name, f"must be an integer, got {_shown(value)}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """Raises RequestError."""
    if not isinstance(value, bool | np.bool_):
        raise RequestError(name, f"must be True or False, got {_shown(value)}")
    return bool(value)


def number(name: str, value: Any, least: float, most: float) -> float:
    """A number within bounds, and so neither NaN nor infinity. Raises RequestError."""
    if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
        raise RequestError(name, f"must be a number, got {_shown(value)}")
    if not least <= value <= most:
        raise RequestError(name, f"must be between {least} and {most}, got {_shown(value)}")
    return float(value)


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise RequestError(name, f"must be one of {choices}, got {_shown(value)}")
    return str(value)


def _check_features(name: str, features: Any, text: TextSizes | None) -> None:
    if text is None:
        raise RequestError(name, "this model draws classes; give class_label")
    if not isinstance(features, TextFeatures):
        raise RequestError(name, f"must be TextFeatures, as a TextEncoder makes them, got {_shown(features)}")
    rows = features.rows
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype != np.float32:
        raise RequestError(name, "its rows must be a float32 array (n, width)")
    if not 1 <= len(rows) <= text.rows or rows.shape[1] != text.width:
        shape = f"{rows.shape[0]} rows of width {rows.shape[1]}"
        raise RequestError(name, f"has {shape}; this model takes 1 to {text.rows} rows of width {text.width}")
    if not np.isfinite(rows).all():
        raise RequestError(name, "its rows hold NaN or infinity")


def _class_label(label: Any, num_classes: int, text: TextSizes | None) -> int | None:
    if label is None:
        return None
    if text is not None:
        raise RequestError("class_label", "this model draws from text; give prompt")
    number = _integer("class_label", label)
    if not 0 <= number < num_classes:
        raise RequestError("class_label", f"{_shown(number)} is not one of the model's {num_classes} classes")
    return number


def _task(task: Any) -> str:
    if not isinstance(task, str) or len(task) > MAX_TASK:
        raise RequestError("task", f"must be text of at most {MAX_TASK} characters, got {_shown(task)}")
    try:
        task.encode()
    except UnicodeEncodeError:  # a lone surrogate
        raise RequestError("task", f"must be text that UTF-8 can write, got {_shown(task)}") from None
    return str(task)


def _grid(grid: Any) -> tuple[int, int]:
    sides = _positions("grid", grid)
    if len(sides) != 2 or not all(1 <= side <= MAX_SIDE for side in sides):
        raise RequestError("grid", f"must be two numbers, 1 to {MAX_SIDE} rows and columns, got {_shown(grid)}")
    return sides[0], sides[1]


def _window(window: Any, cols: int) -> Window:
    if not isinstance(window, Window):
        raise RequestError("window", f"must be a Window or None, got {_shown(window)}")
    row, col, canvas_cols = (
        _part(name, getattr(window, name), least) for name, least in (("row", 0), ("col", 0), ("canvas_cols", 1))
    )
    if col + cols > canvas_cols:
        raise RequestError("window", f"its columns end at {col + cols}, and the canvas has {canvas_cols}")
    return Window(row, col, canvas_cols)


def _part(name: str, value: Any, least: int) -> int:
    try:
        return whole(name, value, least, MAX_CANVAS_SIDE)
    except RequestError as error:
        raise RequestError("window", str(error)) from None


def _positions(name: str, values: Any) -> tuple[int, ...]:
    """A sequence of integers; an array too."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes | bytearray):
        raise RequestError(name, f"must be a sequence of integers, got {_shown(values)}")
    return tuple(_integer(name, value) for value in values)


def _tokens(name: str, tokens: Any) -> Mapping[int, int]:
    if not isinstance(tokens, Mapping):
        raise RequestError(name, f"must map positions to tokens, got {_shown(tokens)}")
    return {_integer(name, cell): _integer(name, token) for cell, token in tokens.items()}


def _shown(value: Any) -> str:
    """A stranger's value for a message, shortened."""
    try:
        return reprlib.repr(value)
    except Exception:  # such as an integer of more digits than Python writes
        return f"a value of type {type(value).__name__}"


def _check_canvas(request: Request, positions: int, codebook_size: int) -> None:
    for name, tokens in (("fixed_tokens", request.fixed_tokens), ("replayed_tokens", request.replayed_tokens)):
        for position, token in tokens.items():
            if not 0 <= position < positions:
                raise RequestError(name, f"position {_shown(position)} lies outside the grid of {positions}")
            if not 0 <= token < codebook_size:
                raise RequestError(name, f"token {_shown(token)} is not in the codebook of {codebook_size}")
    if both := request.fixed_tokens.keys() & request.replayed_tokens.keys():
        raise RequestError("replayed_tokens", f"position {min(both)} is fixed")
    to_draw = positions - len(request.fixed_tokens)
    if to_draw == 0:
        raise RequestError("fixed_tokens", "every position is fixed: nothing is left to draw")
    if to_draw == len(request.replayed_tokens):
        raise RequestError("replayed_tokens", "every position is drawn: nothing is left to draw")
    if request.order is None:
        return
    expected = set(range(positions)) - set(request.fixed_tokens)
    if len(request.order) != to_draw or set(request.order) != expected:
        raise RequestError("order", f"must name each of the {to_draw} positions to draw exactly once")

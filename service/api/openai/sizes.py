"""`size`: the model's own, or one that expanding can reach."""

from __future__ import annotations

import math
import re

from engine.card import ModelCard
from engine.editing.outpainting import LARGEST
from service.errors import Problem
from service.jobs.spec import Size

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_SHAPES = ((1.0, 1.0), (1.5, 1.5), (2.0, 2.0), (1.0, 2.0), (2.0, 1.0), (1.0, 4.0), (4.0, 1.0))
"""Heights and widths that an error names, as multiples of the model's own."""


def parse(size: str | None) -> Size | None:
    """Height and width; None: auto. Raises Problem."""
    if size is None or size == "auto":
        return None
    found = _SIZE.fullmatch(size)
    if found is None:
        raise Problem.field("size", "must be auto or WIDTHxHEIGHT in pixels, such as 256x256", "invalid_size")
    return int(found[2]), int(found[1])


def text(size: Size) -> str:
    height, width = size
    return f"{width}x{height}"


def unavailable(size: Size, card: ModelCard) -> Problem:
    """Says which sizes there are."""
    own = text((card.height, card.width))
    if "expand" not in card.tasks:
        return _refusal(f"{card.name} draws {own} alone; leave size out, or send auto")
    others = [text(one) for rows, cols in _SHAPES[1:] if (one := _in_tokens(rows, cols, card)) is not None]
    most = LARGEST * card.positions * card.stride**2
    return _refusal(
        f"{card.name} can't draw {text(size)}; the nearest is {text(nearest(size, card))}. It draws {own}, and larger "
        f"pictures whose sides are multiples of {card.stride}, up to {most} pixels: {', '.join(others)} and others"
    )


def unlike_picture(size: Size) -> Problem:
    return _refusal(f"an edit has the size of its picture, {text(size)}; leave size out, or send auto")


def nearest(size: Size, card: ModelCard) -> Size:
    """The size that the model can draw, by expanding or without, of nearly this size and shape."""
    most, least = LARGEST * card.positions, card.grid
    sides = [max(own, round(pixels / card.stride)) for pixels, own in zip(size, least, strict=True)]
    while math.prod(sides) > most:
        shrink = math.sqrt(most / math.prod(sides))
        long = max((0, 1), key=lambda axis: sides[axis] / least[axis])
        sides[long] = max(least[long], min(sides[long] - 1, math.floor(sides[long] * shrink)))
    return sides[0] * card.stride, sides[1] * card.stride


def _in_tokens(taller: float, wider: float, card: ModelCard) -> Size | None:
    rows, cols = card.grid[0] * taller, card.grid[1] * wider
    if not (rows.is_integer() and cols.is_integer()):
        return None
    return int(rows) * card.stride, int(cols) * card.stride


def _refusal(message: str) -> Problem:
    return Problem.field("size", message, "invalid_size")

"""Pictures to look at: contact sheets, and one picture while it is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from engine.engine import Engine
from engine.request import Request

GAP = 4
HEADER = 32
FONT = 20
PAPER = 238


def contact_sheet(pictures: Sequence[np.ndarray], columns: int, header: Sequence[str] = ()) -> Image.Image:
    """Pictures uint8 (H, W, 3) of one size, row after row, under the names of the columns."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    top = HEADER if header else GAP
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + top), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(header):
        draw.text((GAP + column * (width + GAP) + width // 2, top // 2), name, "black", font_size=FONT, anchor="mm")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(Image.fromarray(picture), (GAP + column * (width + GAP), top + row * (height + GAP)))
    return sheet


def moments(engine: Engine, request: Request, count: int) -> list[np.ndarray]:
    """One picture at `count` moments of its drawing, evenly spread over the steps; the last is the picture itself.

    Before that, drawn tokens are shown by their palette patches on blank paper.
    """
    rows, cols = engine.model.grid
    canvas = np.full((rows * cols,), -1, np.int32)
    frames: list[np.ndarray] = []
    engine.add(request)
    while not engine.idle:
        for update in engine.step():
            canvas[list(update.positions)] = update.tokens
            if update.step * count >= (len(frames) + 1) * update.steps:
                frames.append(_mosaic(engine, canvas.reshape(rows, cols)))
    return [*frames[:-1], engine.codec.decode(canvas.reshape(rows, cols))]


def _mosaic(engine: Engine, canvas: np.ndarray) -> np.ndarray:
    """uint8 picture of a token map in which -1 is blank."""
    patches = engine.codec.palette()[np.maximum(canvas, 0)]  # rows, cols, 4, 4, 3
    patches = np.where((canvas < 0)[..., None, None, None], np.uint8(PAPER), patches)
    rows, cols, side = canvas.shape[0], canvas.shape[1], patches.shape[2]
    small = Image.fromarray(patches.swapaxes(1, 2).reshape(rows * side, cols * side, 3))
    size = (cols * engine.codec.stride, rows * engine.codec.stride)
    return np.asarray(small.resize(size, Image.Resampling.NEAREST))

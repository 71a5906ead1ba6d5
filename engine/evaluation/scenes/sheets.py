"""Sheets to look at: panoramas, and crops of them with their captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from engine.training.world.scenes.captions import caption
from engine.training.world.scenes.panorama import panorama
from engine.training.world.scenes.shards import crop_left
from engine.training.world.scenes.strips import Strip, render_strip
from engine.training.world.scenes.truth import crop_truth

GAP = 4
LINES = 5
LINE = 13
FONT = 11


def panorama_sheet(split: str, first: int, count: int, crops: int) -> Image.Image:
    """A row for each panorama: the panorama itself, then crops of it, each above a caption."""
    strips = [render_strip(panorama(split, first + i)) for i in range(count)]
    size, wide = strips[0].picture.shape[:2]
    row = size + LINES * LINE + GAP
    sheet = Image.new("RGB", (wide + crops * (size + GAP) + 2 * GAP, count * row + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for place, strip in enumerate(strips):
        top = GAP + place * row
        sheet.paste(Image.fromarray(strip.picture), (GAP, top))
        for number, (picture, text) in enumerate(_captioned(split, first + place, strip, crops)):
            left = 2 * GAP + wide + number * (size + GAP)
            sheet.paste(Image.fromarray(picture), (left, top))
            draw.multiline_text((left, top + size), _wrapped(text, draw, size), "black", font_size=FONT, spacing=1)
    return sheet


def captioned_sheet(pictures: Sequence[tuple[np.ndarray, str]], columns: int) -> Image.Image:
    """Pictures uint8 (H, W, 3), each above its caption; without the captions where all are empty."""
    height, width = pictures[0][0].shape[:2]
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    texts = [_wrapped(text, measure, width) for _, text in pictures]
    below = max(LINE * (text.count("\n") + 1) if text else 0 for text in texts)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + below + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for index, ((picture, _), text) in enumerate(zip(pictures, texts, strict=True)):
        row, column = divmod(index, columns)
        left, top = GAP + column * (width + GAP), GAP + row * (height + below + GAP)
        sheet.paste(Image.fromarray(picture), (left, top))
        draw.multiline_text((left, top + height), text, "black", font_size=FONT, spacing=1)
    return sheet


def _captioned(split: str, index: int, strip: Strip, crops: int) -> list[tuple[np.ndarray, str]]:
    found = []
    for number in range(crops):
        left = crop_left(split, index, number, strip.picture.shape[0])
        truth = crop_truth(panorama(split, index), strip.owners, strip.areas, left)
        found.append((strip.picture[:, left : left + truth.width], caption(truth, (index, number))))
    return found


def _wrapped(text: str, draw: ImageDraw.ImageDraw, width: int) -> str:
    lines: list[str] = []
    for word in text.split():
        if lines and draw.textlength(f"{lines[-1]} {word}", font_size=FONT) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def boxes_drawn(picture: np.ndarray, boxes: Sequence[tuple[int, int, int, int]], colour: str) -> np.ndarray:
    """The picture with frames around parts of it, such as fragments."""
    image = Image.fromarray(picture)
    for left, top, right, bottom in boxes:
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), outline=colour)
    return np.asarray(image)

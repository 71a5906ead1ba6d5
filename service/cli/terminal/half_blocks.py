"""Pictures in a terminal: each character shows two pixels, one above the other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, TextIO

import numpy as np
from PIL import Image

UPPER_HALF = "▀"
RESET = "\x1b[0m"

Colours = Literal["24-bit", "256"]


def colours_of(stream: TextIO, environment: Mapping[str, str] = os.environ) -> Colours | None:
    """How the terminal of a stream shows colours. None: it shows no pictures, because it has few colours, its user
    wants none (NO_COLOR), or it has no half blocks."""
    try:
        UPPER_HALF.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return None
    if environment.get("NO_COLOR"):
        return None
    term = environment.get("TERM", "")
    if environment.get("COLORTERM", "") in ("truecolor", "24bit") or term.endswith("-direct"):
        return "24-bit"
    return "256" if "256color" in term else None


def side_by_side(pictures: list[np.ndarray], columns: int, rows: int) -> np.ndarray:
    """Pictures uint8 (H, W, 3) of one size, at one scale and with black between them, in so many columns and rows of
    characters: uint8 with an even height."""
    height, width = pictures[0].shape[:2]
    most_width = max(1, (columns - 2 * (len(pictures) - 1)) // len(pictures))
    scale = min(most_width / width, 2 * rows / height)
    size = max(1, round(width * scale)), max(2, 2 * round(height * scale / 2))
    shown = [np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX)) for picture in pictures]
    gap = np.zeros((size[1], 2, 3), dtype=np.uint8)
    parts = [part for picture in shown for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=1)[:, :columns]


def text_lines(pixels: np.ndarray, colours: Colours) -> list[str]:
    """pixels: uint8 (H, W, 3), H even."""
    code = _rgb if colours == "24-bit" else _nearest
    lines = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        line, before = "", ("", "")
        for pair in zip(upper, lower, strict=True):
            now = code(*pair[0]), code(*pair[1])
            if now[0] != before[0]:
                line += f"\x1b[38;{now[0]}m"
            if now[1] != before[1]:
                line += f"\x1b[48;{now[1]}m"
            line, before = line + UPPER_HALF, now
        lines.append(line + RESET)
    return lines


def _rgb(red: int, green: int, blue: int) -> str:
    return f"2;{red};{green};{blue}"


def _nearest(red: int, green: int, blue: int) -> str:
    """Of the 6×6×6 colours from 16 on, whose levels are 0, 95, 135 … 255."""
    red, green, blue = (0 if level < 48 else 1 if level < 115 else (level - 35) // 40 for level in (red, green, blue))
    return f"5;{16 + 36 * red + 6 * green + blue}"

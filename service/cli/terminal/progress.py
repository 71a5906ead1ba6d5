"""What a drawing command shows in a terminal while it draws: the pictures as they grow, and a bar."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self, TextIO

import numpy as np
from PIL import Image

from service.cli.terminal.half_blocks import Colours, colours_of, side_by_side, text_lines

REDRAW_SECONDS = 0.1
BAR = 24
"""Characters of the bar."""

TALLEST = 32
"""Rows of characters that the pictures take, at most."""

EMPTY_RGB = (44, 44, 48)
"""Where no token is drawn yet."""

HIDE_CURSOR, SHOW_CURSOR, CLEAR_LINE, CLEAR_BELOW = "\x1b[?25l", "\x1b[?25h", "\x1b[K", "\x1b[J"


def colours_for_pictures(stream: TextIO) -> Colours | None:
    return colours_of(stream) if is_terminal(stream) else None


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class DrawnTokens(Protocol):
    """What a step drew of a picture. positions: row-major. n_done, n_total: tokens of the picture. step: from 1."""

    @property
    def positions(self) -> Sequence[int]: ...
    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def n_done(self) -> int: ...
    @property
    def n_total(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...


class Progress:
    """Nothing is shown if the stream is no terminal. Pictures are shown if it has the colours for them, and once their
    canvases are known."""

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._shown = is_terminal(self._stream)
        self.colours = colours_for_pictures(self._stream)
        self._pictures: list[np.ndarray] = []
        self._palette: np.ndarray | None = None
        self._cols = 0
        self._drawn: dict[int, DrawnTokens] = {}
        self._count = 1
        self._status = ""
        self._began: float | None = None
        self._drawn_at = float("-inf")
        self._lines = 0

    def __enter__(self) -> Self:
        if self._shown:
            self._stream.write(HIDE_CURSOR)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            # The pictures stay; the bar goes.
            self._redraw(self._picture_lines() if kind is None else [])
            self._stream.write(SHOW_CURSOR)
            self._stream.flush()

    def say(self, status: str) -> None:
        """What happens before tokens are drawn, such as the place in the queue."""
        self._status = status
        self._show(now=True)

    def start(
        self, canvases: Sequence[np.ndarray], palette: np.ndarray | None, original: Image.Image | None = None
    ) -> None:
        """canvases: int (rows, cols) of each picture, negative where a token is to be drawn. palette: uint8 (codes,
        h, w, 3); None: the pictures are not shown. original: of an edit, shown dimly where nothing is drawn yet. An
        attempt that starts again starts from here."""
        self._count, self._drawn, self._status = len(canvases), {}, ""
        self._began = self._clock()
        self._palette, self._cols = palette, canvases[0].shape[1]
        self._pictures = []
        if palette is not None and self.colours is not None:
            self._pictures = [_painted(canvas, palette, original) for canvas in canvases]
        self._show(now=True)
        self._drawn_at = float("-inf")  # the first tokens are shown at once

    def draw(self, index: int, drawn: DrawnTokens) -> None:
        """index: of the picture."""
        self._drawn[index] = drawn
        if self._pictures and self._palette is not None:
            _, height, width, _ = self._palette.shape
            for position, token in zip(drawn.positions, drawn.tokens, strict=True):
                row, col = divmod(position, self._cols)
                patch = self._pictures[index][row * height : (row + 1) * height, col * width : (col + 1) * width]
                patch[:] = self._palette[token]
        self._show()

    def finish(self, pictures: Sequence[np.ndarray]) -> None:
        """The finished pictures, uint8 (H, W, 3) of one size, take the place of the growing ones."""
        if self._pictures:
            self._pictures = list(pictures)

    def _show(self, *, now: bool = False) -> None:
        if self._shown and (now or self._clock() - self._drawn_at >= REDRAW_SECONDS):
            self._redraw([*self._picture_lines(), self._bar()])
            self._drawn_at = self._clock()

    def _redraw(self, lines: list[str]) -> None:
        up = f"\x1b[{self._lines}A" if self._lines else ""
        self._stream.write(f"{up}\r" + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW)
        self._stream.flush()
        self._lines = len(lines)

    def _picture_lines(self) -> list[str]:
        if not self._pictures or self.colours is None:
            return []
        columns, rows = shutil.get_terminal_size()
        most = max(1, min(TALLEST, rows - 2))
        return text_lines(side_by_side(self._pictures, columns - 1, most), self.colours)

    def _bar(self) -> str:
        columns = shutil.get_terminal_size().columns
        if not self._drawn or self._began is None:
            return (self._status or "drawing")[: columns - 1]
        last = list(self._drawn.values())
        done, total = sum(one.n_done for one in last), self._count * last[0].n_total
        share = done / max(1, total)
        filled = round(BAR * share)
        full, empty = ("█", "░") if self._can("█░") else ("#", ".")
        # By steps: each takes the same time, but later ones draw more tokens.
        steps = sum(one.step / one.steps for one in last) / self._count
        left = (self._clock() - self._began) * (1 - steps) / steps if steps else 0.0
        text = f"{full * filled}{empty * (BAR - filled)} {share:4.0%}  {done} of {total} tokens, {left:.0f} s left"
        return text[: columns - 1]

    def _can(self, text: str) -> bool:
        try:
            text.encode(self._stream.encoding or "ascii")
        except UnicodeEncodeError:
            return False
        return True


def _painted(canvas: np.ndarray, palette: np.ndarray, original: Image.Image | None) -> np.ndarray:
    """uint8 (H, W, 3)."""
    (rows, cols), (_, height, width, _) = canvas.shape, palette.shape
    patches = palette[np.maximum(canvas, 0)].swapaxes(1, 2).reshape(rows * height, cols * width, 3)
    empty = np.full_like(patches, EMPTY_RGB)
    if original is not None:
        fitted = np.asarray(original.convert("RGB").resize((cols * width, rows * height)))
        empty = (fitted // 3 + empty // 2).astype(np.uint8)
    to_draw = np.kron(canvas < 0, np.ones((height, width), dtype=bool))
    return np.where(to_draw[..., None], empty, patches)

"""Pictures and progress in a terminal, as its user would see them."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import TextIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.cli.terminal.half_blocks import colours_of, side_by_side, text_lines
from service.cli.terminal.progress import EMPTY_RGB, Progress


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def pixels_of(lines: list[str]) -> np.ndarray:
    """What lines of half blocks in 24-bit colours show."""
    shown = []
    for line in lines:
        colour, pairs = {"38": (0, 0, 0), "48": (0, 0, 0)}, []
        for plane, red, green, blue, block in re.findall(r"\x1b\[(38|48);2;(\d+);(\d+);(\d+)m|(▀)", line):
            if block:
                pairs.append((colour["38"], colour["48"]))
            else:
                colour[plane] = (int(red), int(green), int(blue))
        shown += [[upper for upper, _ in pairs], [lower for _, lower in pairs]]
    return np.array(shown, dtype=np.uint8)


@given(half=st.integers(1, 4), width=st.integers(1, 6), data=st.data())
def test_half_blocks_show_every_pixel(half: int, width: int, data: st.DataObject) -> None:
    picture = data.draw(arrays(np.uint8, (2 * half, width, 3), elements=st.integers(0, 3) | st.integers(0, 255)))
    assert np.array_equal(pixels_of(text_lines(picture, "24-bit")), picture)


@given(levels=st.tuples(*[st.integers(0, 255)] * 3))
def test_256_colours_are_the_nearest_of_the_cube(levels: tuple[int, int, int]) -> None:
    [line] = text_lines(np.full((2, 1, 3), levels, dtype=np.uint8), "256")
    found = re.match(r"\x1b\[38;5;(\d+)m\x1b\[48;5;\1m▀\x1b\[0m$", line)
    assert found
    cube, code = (0, 95, 135, 175, 215, 255), int(found[1]) - 16
    chosen = cube[code // 36], cube[code // 6 % 6], cube[code % 6]
    for level, got in zip(levels, chosen, strict=True):
        assert abs(level - got) <= min(abs(level - other) for other in cube) + 1


@given(st.integers(1, 16), st.integers(8, 200), st.integers(1, 60), st.integers(1, 512), st.integers(1, 512))
def test_pictures_fit_the_terminal(count: int, columns: int, rows: int, height: int, width: int) -> None:
    pictures = [np.zeros((height, width, 3), dtype=np.uint8)] * count
    shown = side_by_side(pictures, columns, rows)
    assert shown.shape[0] % 2 == 0
    assert shown.shape[0] <= 2 * rows
    assert shown.shape[1] <= columns


@pytest.mark.parametrize(
    ("environment", "encoding", "colours"),
    [
        ({"COLORTERM": "truecolor", "TERM": "xterm"}, "utf-8", "24-bit"),
        ({"TERM": "xterm-256color"}, "utf-8", "256"),
        ({"TERM": "xterm"}, "utf-8", None),
        ({"COLORTERM": "truecolor", "NO_COLOR": "1"}, "utf-8", None),
        ({"COLORTERM": "truecolor"}, "ascii", None),
    ],
)
def test_pictures_are_shown_where_the_terminal_can(
    environment: dict[str, str], encoding: str, colours: str | None
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert colours_of(stream, environment) == colours


def step(number: int, positions: list[int], tokens: list[int], done: int) -> SimpleNamespace:
    return SimpleNamespace(step=number, steps=4, positions=positions, tokens=tokens, n_done=done, n_total=4)


def drawn_on(stream: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures of 2×2 tokens, one of which is given."""
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    palette = np.zeros((4, 2, 2, 3), dtype=np.uint8)
    palette[1], palette[2] = (250, 0, 0), (0, 0, 250)
    times = iter(range(1000))
    canvas = np.array([[-1, -1], [-1, 2]], dtype=np.int32)
    with Progress(stream, clock=lambda: float(next(times))) as progress:
        progress.say("loading a model")
        progress.start([canvas, canvas], palette)
        progress.draw(0, step(1, [0], [1], 1))
        progress.draw(1, step(2, [1, 2], [1, 1], 2))


def test_a_picture_grows_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    drawn_on(terminal, monkeypatch)
    frames = re.split(r"\x1b\[\d+A\r", terminal.getvalue())
    assert "loading a model" in frames[0]
    last = [line for line in frames[-2].split("\n") if "▀" in line]
    shown = pixels_of(last)
    middle = shown.shape[0] // 4
    first = shown[middle, middle], shown[middle, 3 * middle], shown[3 * middle, 3 * middle]
    assert [tuple(pixel) for pixel in first] == [(250, 0, 0), EMPTY_RGB, (0, 0, 250)]
    assert "3 of 8 tokens" in frames[-2]
    assert "\x1b[?25h" in frames[-1]


def test_what_is_no_terminal_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    drawn_on(stream, monkeypatch)
    assert stream.getvalue() == ""


def test_a_terminal_without_colours_gets_the_bar_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr("service.cli.terminal.progress.colours_of", lambda stream: None)
        drawn_on(terminal, monkeypatch)
    assert "▀" not in terminal.getvalue()
    assert "3 of 8 tokens" in terminal.getvalue()

"""How larger grids are measured: where windows meet, with what their borders are compared, and agreement of windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine import Engine, Request
from engine.evaluation.cached_generator import CachedGenerator
from engine.evaluation.editing import Renders, window_areas, window_seams
from engine.evaluation.expanding import OUTPAINTED, WINDOWED, Expanded, agreement, crops, expand
from engine.request import EMPTY, Window
from engine.training.classifier import Classifier
from tests.evaluation.commands import say
from tests.support.tiny import random_folder


@pytest.fixture(scope="module")
def generator(runs: Path) -> CachedGenerator:
    return CachedGenerator(runs / "model", runs / "kept")


def test_a_cell_belongs_to_the_last_window_that_draws_it() -> None:
    known = np.zeros((2, 8), bool)
    known[1, 0] = True
    areas = window_areas([Window(0, 2, 8), Window(0, 0, 8), Window(0, 4, 8)], known, (2, 4))
    assert areas.tolist() == [[1, 1, 1, 0, 0, 2, 2, 2], [-1, 1, 1, 0, 0, 2, 2, 2]]


def test_a_window_border_is_held_against_the_lines_between_tokens_elsewhere() -> None:
    areas = np.array([[0, 0, 1, 1, 2, 2]] * 2)  # three windows of two columns, two pixels a token
    picture = np.zeros((4, 12, 3), np.uint8)
    picture[:, 4:] += 50  # a hard border of window 1; that of window 2 can't be seen
    picture[2:] += 10  # a line between tokens that all windows share
    picture[:, 11] += 100  # within a token: no line at all
    # Elsewhere: 3 vertical lines of 4 pixels, all 0; one horizontal line of 12 pixels, all 10.
    usual = 12 * 10 / (12 + 12)
    assert window_seams(picture, areas) == pytest.approx([50 - usual, 0 - usual])


def test_what_was_known_has_a_border_too() -> None:
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, 4:] = 80
    assert window_seams(picture, np.array([[-1, -1, 0, 0]] * 2)) == pytest.approx([80])


def test_crops_hold_all_of_a_picture_and_no_more_than_they_must() -> None:
    picture = np.arange(24 * 56).reshape(1, 24, 56, 1)
    cut = crops(picture, 16)
    assert cut.shape == (2 * 4, 16, 16, 1)
    assert set(cut.ravel()) == set(range(24 * 56))
    assert np.array_equal(crops(picture[:, :16, :16], 16), picture[:, :16, :16])


def test_a_canvas_is_painted_around_what_is_there_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_folder(tmp_path / "model")
    canvases = np.full((2, 8, 16), EMPTY, np.int32)
    canvases[:, :, 4:12] = 5
    templates = [Request(class_label=i, seed=i, steps=4) for i in range(2)]
    painted = CachedGenerator(model, tmp_path / "kept").generate_windowed(templates, canvases)
    assert (painted != EMPTY).all()
    assert (painted[:, :, 4:12] == 5).all()
    assert (painted[0] != painted[1]).any()

    def refuse(*_: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(Engine, "step", refuse)
    assert np.array_equal(CachedGenerator(model, tmp_path / "kept").generate_windowed(templates, canvases), painted)
    canvases[1, 0, 4] = 6
    with pytest.raises(AssertionError, match="drawn again"):
        CachedGenerator(model, tmp_path / "kept").generate_windowed(templates, canvases)


def test_a_picture_is_outpainted_around_its_tokens_as_if_it_went_on(runs: Path, generator: CachedGenerator) -> None:
    classifier = Classifier().eval()
    renders = Renders.load(runs / "world", generator, classifier, 2)
    outpainted = expand((8, 16), OUTPAINTED, generator, renders, classifier, generator.settings(steps=2))
    stride = generator.engine.codec.stride
    continued = np.pad(renders.pictures, ((0, 0), (0, 0), (32, 32), (0, 0)), mode="edge")
    own = generator.encode(continued)[:, :, 32 // stride :][:, :, :8]
    assert np.array_equal(outpainted.tokens[:, :, 4:12], own)
    assert (own != renders.tokens).any()
    assert len(outpainted.borders) == 2
    windowed = expand((8, 16), WINDOWED, generator, renders, classifier, generator.settings(steps=2))
    assert len(windowed.borders) == len(windowed.windows) - 1 > 0
    at_once = expand((8, 16), "ntk", generator, renders, classifier, generator.settings(steps=2))
    assert len(at_once.borders) == 0
    assert at_once.pictures.shape == (2, 16, 32, 3)


def test_windows_that_share_their_noise_agree_beyond_the_bound(generator: CachedGenerator) -> None:
    labels = np.arange(8)
    settings = generator.settings(steps=4)
    alike = generator.draw([Request(class_label=int(label), seed=int(label), **settings) for label in labels])
    others = generator.draw([Request(class_label=int(label), seed=100 + int(label), **settings) for label in labels])
    windows = (Window(0, 0, 16), Window(0, 8, 16))

    def agreed(right: np.ndarray) -> Any:
        tokens = np.concatenate([alike, right], axis=2)
        return agreement(
            Expanded(tokens, np.zeros(0), 0.0, 0.0, 0.0, windows, np.zeros(0)), generator, labels, settings
        )

    assert agreed(alike).neighbours == 1.0 > agreed(alike).bound
    assert agreed(others).neighbours < agreed(others).bound


def test_expanding_answers_with_tables_and_a_sheet_for_every_grid(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say(runs, capsys, "expand", "--count", "2", "--grids", "8x16", "--methods", "interpolate", "windowed")
    figures = runs / "figures"
    assert "| 8x16 | interpolate |" in (figures / "expand.md").read_text(encoding="utf-8")
    agreement = (figures / "expand-agreement.md").read_text(encoding="utf-8")
    assert "| 8x16 | windowed |" in agreement
    assert "interpolate" not in agreement
    with Image.open(figures / "expand-8x16.webp") as sheet:
        assert sheet.size == (2 * 36 + 4, 2 * 20 + 32)


def test_every_way_of_prefilling_is_compared(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = say(runs, capsys, "prefill", "--count", "2", "--masks", "half")
    rows = [line for line in said.splitlines() if line.startswith("| half |")]
    assert len(rows) == 9
    assert len({tuple(row.split("|")[2:5]) for row in rows}) == 9

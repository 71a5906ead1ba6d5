"""How editing is measured: masks, seams, and that only masked pixels change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image

from engine import Engine, Request
from engine.editing.masks import fixed_cells
from engine.evaluation.cached_generator import CachedGenerator
from engine.evaluation.editing import (
    Renders,
    across,
    complete,
    diffusion,
    mean_colour,
    measure_edit,
    other_labels,
    seams,
)
from engine.evaluation.masks import MASKS, bounding_boxes, masks, outlines
from engine.training.classifier import Classifier, classify
from engine.training.world.shapes import THINGS
from engine.training.world.world import scene, silhouettes
from tests.evaluation.commands import say
from tests.support.tiny import random_folder


def pictures(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_hides_some_of_every_picture_and_the_same_every_time(name: str) -> None:
    found = masks(name, 20, 128)
    assert all(mask.any() and not mask.all() for mask in found)
    assert np.array_equal(found[:5], masks(name, 5, 128))
    changing = len({mask.tobytes() for mask in found}) > 1
    assert changing == (name in ("box", "strokes"))


def test_half_and_centre_fall_on_whole_tokens() -> None:
    for name, share in (("half", 1 / 2), ("centre", 1 / 4)):
        [mask] = masks(name, 1, 128)
        assert mask.mean() == (~fixed_cells(mask, (16, 16))).mean() == share
    assert masks("half", 1, 128)[0, :, :64].all()


def test_outlines_hold_the_object_and_a_margin() -> None:
    objects = silhouettes([scene("test", i) for i in range(16)], 64)
    around = outlines("test", 16, 64)
    assert around[objects].all()
    grown = np.pad(objects, ((0, 0), (4, 4), (0, 0)))
    assert around[grown[:, :-8]].all()
    assert around[grown[:, 8:]].all()
    assert (around.mean((1, 2)) < 0.75).all()


@given(arrays(bool, (2, 7, 9)).filter(lambda found: found.any((1, 2)).all()))
def test_a_bounding_box_is_the_smallest_that_holds_its_mask(found: np.ndarray) -> None:
    for mask, boxed in zip(found, bounding_boxes(found), strict=True):
        rows, cols = np.nonzero(mask)
        expected = np.zeros_like(mask)
        expected[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1] = True
        assert np.array_equal(boxed, expected)


def test_the_gradient_across_a_border_is_that_of_the_pixels_it_parts() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, 4:] = (30, 60, 90)
    picture[:, 6:] = 255  # away from the border
    mask = np.zeros((8, 8), bool)
    mask[:, :4] = True
    assert across(mask, picture) == 60
    mask[4:] = False  # the border now runs along 4 columns too, where nothing changes
    assert across(mask, picture) == 30


def test_a_seam_is_above_nothing_where_the_border_is_hard_and_below_where_it_is_smooth() -> None:
    [real] = pictures(1)
    [mask] = masks("centre", 1, 32)
    black = np.where(mask[..., None], np.zeros(3, np.uint8), np.uint8(255))
    flat = np.full_like(real, 7)
    same, hard, smooth = seams(np.stack([real, black, flat]), np.stack([real] * 3), np.stack([mask] * 3))
    assert same == 0
    assert hard == pytest.approx(255 - across(mask, real))
    assert smooth == pytest.approx(-across(mask, real))


def measured(drawn: np.ndarray, hidden: np.ndarray, labels: list[int], real: np.ndarray) -> Any:
    classifier = Classifier().eval()
    renders = Renders(
        real, np.zeros(0), np.array(labels), classify(classifier, torch.from_numpy(real).permute(0, 3, 1, 2))
    )
    return classifier, measure_edit("some", drawn, hidden, np.array(labels), renders, classifier)


def test_what_was_not_hidden_cannot_count() -> None:
    real, hidden = pictures(6), masks("box", 6, 32)
    drawn = np.where(hidden[..., None], real, 255 - real)
    _, edited = measured(drawn, hidden, [0] * 6, real)
    assert np.array_equal(edited.pictures, real)
    assert edited.frechet == pytest.approx(0, abs=1e-6)
    assert edited.seam == edited.hardness == 0


def test_smooth_and_hard_borders_do_not_make_up_for_each_other() -> None:
    grey = np.full((32, 32, 3), 100, np.uint8)
    step = grey.copy()
    step[8:24, 8:24] = 160
    hidden = masks("centre", 2, 32)
    _, edited = measured(np.stack([step, grey]), hidden, [0, 0], np.stack([grey, step]))
    assert edited.hardness == 0
    assert edited.seam == 60


def test_recognised_counts_what_the_classifier_sees_in_the_edited_picture() -> None:
    real, hidden = pictures(4), masks("half", 4, 32)
    drawn = pictures(4, seed=1)
    classifier, _ = measured(drawn, hidden, [0] * 4, real)
    both = np.where(hidden[..., None], drawn, real)
    seen = classify(classifier, torch.from_numpy(both).permute(0, 3, 1, 2)).classes.tolist()
    renders = Renders(
        real, np.zeros(0), np.array(seen), classify(classifier, torch.from_numpy(real).permute(0, 3, 1, 2))
    )
    seen[0] = (seen[0] + 1) % len(THINGS)
    assert measure_edit("", drawn, hidden, np.array(seen), renders, classifier).recognised == 3 / 4


def test_the_others_know_nothing_but_what_is_left() -> None:
    real, hidden = pictures(3), masks("box", 3, 32)
    other = np.where(hidden[..., None], np.uint8(0), real)
    for fill in (mean_colour, diffusion):
        assert np.array_equal(fill(real, hidden), fill(other, hidden))
    assert np.array_equal(diffusion(real, hidden)[~hidden], real[~hidden])
    assert mean_colour(real, hidden)[1, 0, 0] == pytest.approx(real[1][~hidden[1]].mean(0), abs=0.5)


def test_an_object_becomes_any_other_but_never_itself() -> None:
    labels = np.arange(1600) % len(THINGS)
    new = other_labels(labels)
    assert (new != labels).all()
    assert np.bincount(new[labels == 3], minlength=16).astype(bool).sum() == 15
    assert np.array_equal(new[:32], other_labels(labels)[:32])


def test_what_a_mask_leaves_is_known_and_the_class_is_said_or_withheld(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = CachedGenerator(runs / "model", tmp_path)
    asked: list[list[Request]] = []
    draw = generator.draw

    def counted_draw(requests: list[Request]) -> Any:
        asked.append(requests)
        return draw(requests)

    monkeypatch.setattr(generator, "draw", counted_draw)
    renders = Renders.load(runs / "world", generator, Classifier().eval(), 4)
    hidden = masks("half", 4, 16)
    complete(generator, renders, hidden, [3, 1, 2, 0], generator.settings(steps=2))
    complete(generator, renders, hidden, None, generator.settings(steps=2))
    said, withheld = asked
    assert [request.class_label for request in said] == [3, 1, 2, 0]
    assert {request.class_label for request in withheld} == {None}
    right = {row * 8 + col for row in range(8) for col in range(4, 8)}
    for i, request in enumerate(said):
        assert dict(request.fixed_tokens) == {cell: renders.tokens[i].ravel()[cell] for cell in right}
    assert len({request.seed for request in said}) == 4


def test_a_request_is_drawn_once_for_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_folder(tmp_path / "model")
    request = Request(class_label=1, steps=3, fixed_tokens={5: 7})
    [drawn] = CachedGenerator(model, tmp_path / "kept").draw([request])
    assert drawn.ravel()[5] == 7
    assert np.array_equal(drawn, Engine.load(model).generate([request])[0])

    def refuse(*_: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(Engine, "generate", refuse)
    again = CachedGenerator(model, tmp_path / "kept")
    assert np.array_equal(again.draw([request])[0], drawn)
    for other in (Request(class_label=1, steps=3, fixed_tokens={5: 8}), Request(class_label=1, steps=3)):
        with pytest.raises(AssertionError, match="drawn again"):
            again.draw([other])
    random_folder(tmp_path / "model", codes=128)
    with pytest.raises(AssertionError, match="drawn again"):
        CachedGenerator(model, tmp_path / "kept").draw([request])


def test_editing_answers_with_tables_and_sheets(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = say(runs, capsys, "editing", "--count", "4", "--masks", "half", "strokes", "--examples", "2")
    table = (runs / "figures" / "editing.md").read_text(encoding="utf-8")
    assert table in said
    assert "| half | untouched |" in table
    assert "| 0.00 | 0.00 | +0.00 |" in table
    assert "| strokes | **class given** |" in table
    assert "| strokes | **class given** |" in table
    assert "| box |" in (runs / "figures" / "editing-exchange.md").read_text(encoding="utf-8")
    with Image.open(runs / "figures" / "editing-half.webp") as sheet:
        assert sheet.size == (7 * 20 + 4, 2 * 20 + 32)

"""Panoramas: functions of (split, index), whose truth is what the pixels show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.training.world.scenes.panorama import WIDTH, Panorama, Placed, panorama
from engine.training.world.scenes.pasting import Singles, cell_truth, draw_sample, paste
from engine.training.world.scenes.shards import Panoramas
from engine.training.world.scenes.strips import Strip, render_strip
from engine.training.world.scenes.truth import NOTHING, crop_truth
from engine.training.world.world import SPLITS, scene

SIZE = 32


@pytest.fixture(scope="module")
def strips() -> dict[int, Strip]:
    """Rendered panoramas with several things, by their index."""
    crowded = [index for index in range(40) if len(panorama("test", index).things) >= 3][:3]
    return {index: render_strip(panorama("test", index), SIZE) for index in crowded}


def with_things(*things: Placed) -> Panorama:
    return replace(panorama("test", 0), things=things)


def placed(label: int, x: float, depth: float = 4.6) -> Placed:
    return Placed(label=label, hue=0, x=x, depth=depth, yaw=0.3, proportions=(0.5, 0.5))


def test_a_panorama_is_a_function_of_its_split_and_index() -> None:
    worlds = [panorama(split, index) for split in SPLITS for index in range(100)]
    assert worlds == [panorama(split, index) for split in SPLITS for index in range(100)]
    assert len(set(worlds)) == len(worlds)
    assert {len(world.things) for world in worlds} >= set(range(6))
    first, again = (render_strip(panorama("train", 5), 16) for _ in range(2))
    assert np.array_equal(first.picture, again.picture)
    assert np.array_equal(first.owners, again.owners)
    assert first.picture.shape == (16, round(16 * WIDTH), 3)


def test_a_thing_is_coloured_in_its_box_and_nowhere_else(strips: dict[int, Strip]) -> None:
    """Another hue changes pixels of the thing alone, and its box holds them all."""
    for index, strip in strips.items():
        world = panorama("test", index)
        for number, one in enumerate(world.things):
            things = list(world.things)
            things[number] = replace(one, hue=(one.hue + 3) % 8)
            other = render_strip(replace(world, things=tuple(things)), SIZE)
            changed = (other.picture.astype(int) != strip.picture).any(2)
            mine = strip.owners == number + 1
            # A pixel at the edge has samples of a thing and belongs to what is behind it.
            assert not changed[~_grown(mine)].any()
            if mine.sum() > 20:
                assert changed[mine].mean() > 0.15  # a snowman has only a hat and a scarf of its hue


def _grown(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.any([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)


def test_the_truth_of_a_crop_is_that_of_its_pixels(strips: dict[int, Strip]) -> None:
    for index, strip in strips.items():
        world = panorama("test", index)
        for left in (0, 17, 64, strip.picture.shape[1] - SIZE):
            truth = crop_truth(world, strip.owners, strip.areas, left)
            assert not strip.owners[[0, -1]].any(), "the upper or lower border cuts a thing"
            owners = strip.owners[:, left : left + SIZE]
            assert (truth.floor, truth.sky, truth.light) == (world.floor, world.sky, world.light)
            assert len(truth.things) == len(np.unique(owners[owners > 0]))
            assert sum(one.pixels for one in truth.things) == (owners > 0).sum()
            assert [one.middle for one in truth.things] == sorted(one.middle for one in truth.things)
            for one in truth.things:
                x0, y0, x1, y1 = one.box
                number = [(t.label, t.hue, t.far) for t in world.things].index((one.label, one.hue, one.far)) + 1
                assert (owners[y0:y1, x0:x1] == number).sum() == (owners == number).sum()
                assert (owners[y0, x0:x1] == number).any()
                assert (owners[y0:y1, x1 - 1] == number).any()


def test_the_border_of_a_crop_and_nearer_things_hide_a_share_of_a_thing() -> None:
    alone = render_strip(with_things(placed(0, 2.0)), 64)
    whole = crop_truth(with_things(placed(0, 2.0)), alone.owners, alone.areas, 96)
    assert [(one.visible, one.cut, one.named) for one in whole.things] == [(1.0, False, True)]
    half = crop_truth(with_things(placed(0, 2.0)), alone.owners, alone.areas, 128).things[0]
    assert half.visible == pytest.approx(0.5, abs=0.03)
    assert half.cut
    assert not half.named
    world = with_things(placed(0, 2.0, depth=8.0), placed(1, 2.15))
    both = render_strip(world, 64)
    behind, before = crop_truth(world, both.owners, both.areas, 96).things
    assert (behind.far, before.far) == (True, False)
    assert behind.visible < 0.8
    assert not behind.cut
    assert before.visible == 1.0
    outside = render_strip(with_things(placed(0, 0.0)), 64)
    cut = crop_truth(with_things(placed(0, 0.0)), outside.owners, outside.areas, 0)
    assert cut.things[0].visible == pytest.approx(0.5, abs=0.03), "the border of the panorama cuts too"


def test_far_things_are_smaller_and_higher() -> None:
    world = with_things(placed(0, 1.0, depth=9.0), placed(0, 3.0))
    strip = render_strip(world, 64)
    far, near = crop_truth(world, strip.owners, strip.areas, 0, strip.picture.shape[1]).things
    assert far.pixels < 0.5 * near.pixels
    assert far.box[3] < near.box[3]


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_shadow_falls_away_from_the_sun(side: float) -> None:
    bare = replace(panorama("test", 0), things=(), sun=(side * 0.8, 0.75))
    world = replace(bare, things=(placed(0, 2.0),))
    strip = render_strip(world, SIZE)
    darker = render_strip(bare, SIZE).picture.astype(int).sum(2) - strip.picture.astype(int).sum(2)
    darker[strip.owners > 0] = 0
    left, right = darker[:, : 2 * SIZE].sum(), darker[:, 2 * SIZE :].sum()
    assert world.light == ("right" if side > 0 else "left")
    assert (left > 2 * right) if side > 0 else (right > 2 * left)


def test_the_truth_of_the_mirror_image_is_the_mirrored_truth(strips: dict[int, Strip]) -> None:
    for index, strip in strips.items():
        world = panorama("test", index)
        turned = replace(world, sun=(-world.sun[0], world.sun[1]))
        owners = strip.owners[:, 20 : 20 + SIZE]
        expected = crop_truth(turned, owners[:, ::-1], strip.areas, 0)
        assert crop_truth(world, strip.owners, strip.areas, 20).mirrored() == expected


def test_a_paste_says_what_it_cut() -> None:
    one, two = with_things(placed(0, 0.5)), with_things(placed(1, 0.5))
    first, second = (
        (strip.picture[:, :64], strip.owners[:, :64]) for strip in (render_strip(world, 64) for world in (one, two))
    )
    region = np.zeros((64, 64), bool)
    assert paste(first, second, region).fragments == 0
    region[:, 32:] = True
    half = paste(first, second, region)
    assert half.fragments == 2
    assert all(share == pytest.approx(0.5, abs=0.05) for share in half.kept.values())
    things, hues, whole = cell_truth(one.things, paste(first, second, np.zeros_like(region)))
    assert things[4, 4] == 0
    assert hues[4, 4] == 0
    assert whole[4, 4] == 1
    assert things[0, 0] == NOTHING
    assert set(np.unique(cell_truth(one.things, half)[2])) <= {-1, 0}


def test_training_crops_of_the_scene_classifier_repeat_and_mirror_with_their_truth(strips: dict[int, Strip]) -> None:
    index, strip = next(iter(strips.items()))
    world = Panoramas("test", index, strip.picture[None], strip.owners[None], strip.areas[None])
    one, two = (draw_sample([world], [], 8, 0, 3) for _ in range(2))
    assert (one.pictures == two.pictures).all()
    assert (one.things == two.things).all()
    assert one.things.shape == (8, SIZE // 8, SIZE // 8)
    assert ((one.things == NOTHING) == (one.hues == -1)).all()


def test_single_pictures_of_the_scene_classifier_show_one_whole_thing() -> None:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[8:24, 8:24] = True
    singles = Singles("train", np.stack([picture] * 3), np.stack([mask] * 3))
    strip = render_strip(panorama("train", 0), SIZE)
    wide = Panoramas("train", 0, strip.picture[None], strip.owners[None], strip.areas[None])
    found = draw_sample([wide], [singles], 64, 0, 0)
    single = [row for row in range(64) if not found.pictures[row].any()]
    assert 5 < len(single) < 28
    for row in single:
        shown = found.things[row] != NOTHING
        assert shown.sum() == 4
        label, hue = int(found.things[row][shown][0]), int(found.hues[row][shown][0])
        assert (label, hue) in {(scene("train", index).label, scene("train", index).hue) for index in range(3)}
        assert (found.whole[row][shown] == 1).all()

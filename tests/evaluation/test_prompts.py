"""Prompts in miniature: the list, and what a picture must show for each."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.evaluation.__main__ import main
from engine.evaluation.scenes.fragments import count_fragments, is_fragment
from engine.evaluation.scenes.prompts import CATEGORIES, Prompt, Wanted, prompts
from engine.evaluation.scenes.scoring import asked_by, judge, score
from engine.evaluation.scenes.seeing import Found, Seen, read
from engine.training.loop import save_half
from engine.training.world.scenes.captions import unknown_words
from engine.training.world.scenes.classifier import (
    SCENE_CLASSIFIER,
    SceneClassifier,
    SceneLogits,
    load_scene_classifier,
)
from engine.training.world.scenes.truth import NOTHING, SeenThing, Truth
from engine.training.world.shapes import THINGS

MUSHROOM, CUBE, CONE = 8, 1, 4
RED, BLUE, GREEN = 0, 5, 3


@pytest.fixture(scope="module")
def untrained() -> SceneClassifier:
    torch.manual_seed(0)
    return SceneClassifier().eval()


def found(
    label: int, hue: int, middle: int = 64, cells: int = 20, confidence: float = 0.9, whole: float = 0.9
) -> Found:
    return Found(label, hue, (middle - 10, 40, middle + 10, 80), cells, confidence, whole)


def seen(*things: Found, floor: int = 1, sky: int = 2) -> Seen:
    return Seen(things, floor, sky)


def test_the_list_has_every_category_class_and_place_in_known_words() -> None:
    listed = prompts()
    assert len(listed) == 800
    assert listed == prompts()
    assert listed != prompts(seed=1)
    assert Counter(prompt.category for prompt in listed) == dict.fromkeys(CATEGORIES, 160)
    for category in ("thing", "colour", "two things", "left and right"):
        firsts = Counter(prompt.things[0].label for prompt in listed if prompt.category == category)
        assert firsts == dict.fromkeys(range(len(THINGS)), 10)
    places = Counter((prompt.floor, prompt.sky) for prompt in listed if prompt.category == "place")
    assert len(places) == 12
    assert any(prompt.empty for prompt in listed)
    assert [unknown_words(prompt.text) for prompt in listed if unknown_words(prompt.text)] == []
    for prompt in listed:
        assert len({wanted.label for wanted in prompt.things}) == len(prompt.things)
        assert all(wanted.hue is None or wanted.hue in THINGS[wanted.label].hues for wanted in prompt.things)
        assert Prompt.from_json(json.loads(json.dumps(prompt.to_json()))) == prompt


def test_a_prompt_says_what_it_is_scored_by() -> None:
    by_text = {prompt.text: prompt for prompt in prompts()}
    assert by_text["mushroom"].things == (Wanted(MUSHROOM),)
    [sided] = [prompt for prompt in by_text.values() if prompt.ordered and " right of " in prompt.text][:1]
    second, first = sided.text.split(" right of ")
    assert [wanted.name for wanted in sided.things] == [first, second]
    empty = next(prompt for prompt in by_text.values() if prompt.empty)
    assert empty.text.startswith("an empty ")
    assert not empty.things


def test_the_parts_of_a_verdict() -> None:
    red_mushroom = Prompt("", "colour", (Wanted(MUSHROOM, RED),))
    right = judge(red_mushroom, seen(found(MUSHROOM, RED), found(CUBE, BLUE)))
    assert (right.things, right.colours, right.both, right.right) == (True, True, True, True)
    hue = judge(red_mushroom, seen(found(MUSHROOM, BLUE), found(CUBE, RED)))
    assert (hue.things, hue.colours, hue.both, hue.right) == (True, False, False, False)
    thing = judge(red_mushroom, seen(found(CUBE, RED)))
    assert (thing.things, thing.colours, thing.both) == (False, True, False)
    nothing = judge(red_mushroom, seen())
    assert (nothing.things, nothing.colours, nothing.both, nothing.order, nothing.floor) == (
        False, False, False, None, None,
    )  # fmt: skip
    assert judge(red_mushroom, seen(found(MUSHROOM, RED, confidence=0.4))).things is False
    assert judge(replace(red_mushroom, things=(Wanted(MUSHROOM),)), seen(found(MUSHROOM, BLUE))).right


def test_floor_sky_and_emptiness() -> None:
    place = Prompt("", "place", (), floor=1, sky=2)
    assert judge(place, seen(found(CUBE, RED))).right
    assert judge(place, seen(floor=0)).floor is False
    assert judge(place, seen(sky=0)).sky is False
    empty = replace(place, empty=True)
    assert judge(empty, seen()).right
    assert judge(empty, seen(found(CUBE, RED))).things is False


def test_two_things_must_both_be_there_and_in_order() -> None:
    asked = Prompt("", "left and right", (Wanted(CUBE, RED), Wanted(CONE, BLUE)), ordered=True)
    left, right = found(CUBE, RED, 30), found(CONE, BLUE, 90)
    assert judge(asked, seen(left, right)).right
    swapped = judge(asked, seen(replace(right, box=(0, 0, 20, 20)), left))
    assert (swapped.both, swapped.order, swapped.right) == (True, False, False)
    assert judge(asked, seen(left)).order is False
    # A second red cube to the right of the cone does no harm.
    assert judge(asked, seen(left, right, found(CUBE, RED, 120))).right
    # The cone that is right of the cube has another hue: both are there, but not in this order.
    assert not judge(asked, seen(replace(right, box=(0, 0, 20, 20)), left, found(CONE, GREEN, 90))).right


def test_scores_are_shares_of_what_was_asked() -> None:
    asked = [Prompt("", "thing", (Wanted(CUBE),)), Prompt("", "thing", (Wanted(CONE),)), Prompt("", "place", (), 1, 2)]
    found_scores = score(asked, [seen(found(CUBE, RED)), seen(), seen(floor=0)])
    assert (found_scores["thing"].prompts, found_scores["thing"].right) == (2, 0.5)
    assert found_scores["thing"].parts["things"] == 0.5
    assert found_scores["thing"].parts["floor"] is None
    assert [found_scores["place"].parts[part] for part in ("floor", "sky", "place")] == [0.0, 1.0, 0.0]
    assert found_scores["thing"].parts["place"] is None
    assert found_scores["place"].right == 0.0


def test_a_crop_is_asked_for_what_its_truth_holds() -> None:
    one, two = (SeenThing(CUBE, RED, (10, 0, 30, 30), 600, 1.0, False, False),
                SeenThing(CONE, BLUE, (80, 0, 99, 30), 600, 1.0, False, False))  # fmt: skip
    truth = Truth((one, two), floor=1, sky=2, light="left", width=128)
    assert asked_by(truth, "thing") is None
    ordered = asked_by(truth, "left and right")
    assert ordered is not None
    assert (ordered.things, ordered.ordered) == ((Wanted(CUBE, RED), Wanted(CONE, BLUE)), True)
    alone = asked_by(replace(truth, things=(one,)), "colour")
    assert alone is not None
    assert alone.things == (Wanted(CUBE, RED),)
    assert asked_by(replace(truth, things=(one, one)), "two things") is None


def logits(*shapes: tuple[int, slice, slice, float, float]) -> SceneLogits:
    """Of a picture of 16×32 cells: class, rows, columns, logit of the class, logit of being whole."""
    things = torch.zeros(1, NOTHING + 1, 16, 32)
    things[:, NOTHING] = 20
    whole = torch.full((1, 16, 32), 5.0)
    hues = torch.zeros(1, 8, 16, 32)
    for label, rows, columns, sure, entire in shapes:
        things[0, NOTHING, rows, columns] = 0
        things[0, :NOTHING, rows, columns] = 1
        things[0, label, rows, columns] = sure
        whole[0, rows, columns] = entire
        hues[0, GREEN, rows, columns] = 3
    return SceneLogits(things, hues, whole, torch.tensor([[0.0, 9, 0, 0]]), torch.tensor([[0.0, 0, 9]]))


def test_connected_cells_are_one_thing_and_single_cells_in_it_are_misread() -> None:
    cube = (CUBE, slice(4, 9), slice(3, 8), 9.0, 5.0)
    misread = (CONE, slice(6, 7), slice(5, 7), 9.0, 5.0)
    there = read(logits(cube, (CONE, slice(3, 9), slice(20, 25), 9.0, 5.0), misread), 0)
    assert [(one.label, one.hue, one.cells) for one in there.things] == [(CUBE, GREEN, 25), (CONE, GREEN, 30)]
    assert there.things[0].box == (24, 32, 64, 72)
    assert (there.floor, there.sky) == (1, 2)
    touching = read(logits(cube, (CONE, slice(4, 9), slice(8, 13), 9.0, 5.0)), 0)
    assert [one.label for one in touching.things] == [CUBE, CONE]


def test_a_fragment_is_cut_or_has_no_name() -> None:
    shapes = (slice(4, 9), slice(3, 8))
    fragments = [
        [is_fragment(one) for one in read(logits((CUBE, *shapes, sure, entire)), 0).things]
        for sure, entire in ((9.0, 5.0), (9.0, -5.0), (1.5, 5.0))
    ]
    assert fragments == [[False], [True], [True]]
    assert read(logits((CUBE, slice(4, 5), slice(3, 4), 9.0, -5.0)), 0).things == (), "a single cell is no shape"


def test_the_commands_write_prompts_and_score_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], untrained: SceneClassifier
) -> None:
    save_half(untrained.state_dict(), tmp_path / SCENE_CLASSIFIER)
    listed, pictures = str(tmp_path / "prompts.jsonl"), str(tmp_path / "pictures.npy")
    np.save(pictures, np.random.default_rng(0).integers(0, 256, (5, 64, 96, 3), np.uint8))
    places = ["--runs", str(tmp_path), "--model", str(tmp_path)]
    assert main([*places, "prompts", "--count", "5", "--out", listed]) == 0
    assert main([*places, "score", "--prompts", listed, "--pictures", pictures]) == 0
    assert "| left and right | 1 |" in capsys.readouterr().out
    main([*places, "prompts", "--count", "4", "--out", listed])
    with pytest.raises(SystemExit, match=r"4 prompts and .* 5 pictures"):
        main([*places, "score", "--prompts", listed, "--pictures", pictures])


def test_a_classifier_that_was_not_trained_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="arpg train scene-classifier"):
        load_scene_classifier(tmp_path / SCENE_CLASSIFIER, torch.device("cpu"))


def test_the_classifier_reads_pictures_of_any_width(untrained: SceneClassifier) -> None:
    wide = untrained(torch.zeros(2, 3, 64, 160))
    assert wide.things.shape == (2, NOTHING + 1, 8, 20)
    assert (wide.hues.shape[1], wide.whole.shape, wide.floor.shape, wide.sky.shape) == (8, (2, 8, 20), (2, 4), (2, 3))
    with pytest.raises(ValueError, match="multiples of 32"):
        count_fragments(untrained, np.zeros((1, 64, 72, 3), np.uint8))
    assert count_fragments(untrained, np.zeros((1, 64, 160, 3), np.uint8)).share in (0.0, 1.0)

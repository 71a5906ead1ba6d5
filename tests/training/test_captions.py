"""Captions: every word is known, and every fact they name is in the truth."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.training.world.scenes.captions import (
    APART,
    FLOOR_NAMES,
    HUE_NAMES,
    NAME_ALONE,
    SKY_NAMES,
    WORD,
    caption,
    unknown_words,
    vocabulary,
)
from engine.training.world.scenes.truth import ENOUGH, PIXELS, SeenThing, Truth
from engine.training.world.shapes import THINGS

NOUNS = {name: label for label, thing in enumerate(THINGS) for name in (thing.name, *thing.synonyms)}
NOUN = "|".join(sorted(NOUNS, key=len, reverse=True))
NAMED = re.compile(rf"(?:({'|'.join(HUE_NAMES)}) )?\b({NOUN})\b")
FLOORS = {name.split()[-1]: number for number, names in enumerate(FLOOR_NAMES) for name in names}
SKIES = {name: number for number, names in enumerate(SKY_NAMES) for name in names}


def thing(label: int, hue: int, left: int, visible: float = 1.0, *, far: bool = False) -> SeenThing:
    return SeenThing(label, hue, (left, 40, left + 30, 90), max(1, round(900 * visible)), visible, far, visible < 1)


@st.composite
def truths(draw: st.DrawFn) -> Truth:
    lefts = sorted(draw(st.lists(st.integers(0, 98), max_size=4, unique=True)))
    things = tuple(
        thing(
            draw(st.integers(0, len(THINGS) - 1)),
            draw(st.integers(0, 7)),
            left,
            draw(st.sampled_from([1.0, 0.75, 0.3, 0.05])),
            far=draw(st.booleans()),
        )
        for left in lefts
    )
    return Truth(
        things, draw(st.integers(0, 3)), draw(st.integers(0, 2)), draw(st.sampled_from(["left", "right"])), 128
    )


def mentioned(text: str, truth: Truth) -> list[list[SeenThing]]:
    """For each noun of the text, the things that it can mean."""
    return [
        [one for one in truth.named if one.label == NOUNS[noun] and hue in ("", HUE_NAMES[one.hue])]
        for hue, noun in NAMED.findall(text)
    ]


def check_facts(text: str, truth: Truth) -> None:
    found = mentioned(text, truth)
    assert all(found), "a thing that is not there, or not visible enough, or of another hue"
    for name in re.findall(r"(\w+) (?:floor|ground)", text.replace("the floor", "")):
        assert name == "empty" or FLOORS[name] == truth.floor
    for name in re.findall(r"(\w+) sky", text):
        assert SKIES[name] == truth.sky
    for side in re.findall(r"(?:lit from the|light from the|sun from the|sun is on the) (\w+)", text):
        assert side == truth.light
    if "empty" in text or "nothing" in text:
        assert not truth.things
    for phrase, first in ((r"(?:to the )?left of", True), (r"(?:to the )?right of", False)):
        if re.search(rf" {phrase} ", text):
            one, two = found[:2] if first else reversed(found[:2])
            assert any(b.middle - a.middle >= APART for a in one for b in two)
    if "on the left and" in text:
        assert any(b.middle - a.middle >= APART for a in found[0] for b in found[1])
    elif aside := re.search(rf"(?:{NOUN}) (?:far away |close by |in the \w+ )?on the (left|right)", text):
        assert any((one.middle < 64) == (aside[1] == "left") for one in found[0])
    for words, far in (("far away|distance|background|small", True), ("close by|foreground|large|big", False)):
        if re.search(rf"\b(?:{words})\b", text):
            assert any(one.far is far for choices in found for one in choices)


@settings(max_examples=150)
@given(truths(), st.integers(0, 10**6))
def test_every_word_is_known_and_every_fact_is_in_the_truth(truth: Truth, seed: int) -> None:
    text = caption(truth, (seed,))
    assert text == text.strip().lower()
    assert text == caption(truth, (seed,))
    assert set(WORD.findall(text)) <= set(vocabulary())
    assert unknown_words(text) == ()
    check_facts(text, truth)
    turned = truth.mirrored()
    assert turned.mirrored() == truth
    check_facts(caption(turned, (seed,)), turned)


def pair() -> Truth:
    return Truth((thing(1, 0, 10), thing(4, 5, 80)), floor=1, sky=1, light="right", width=128)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_mirror_image_swaps_left_and_right(mirrored: bool) -> None:
    truth = pair().mirrored() if mirrored else pair()
    texts = [caption(truth, (seed,)) for seed in range(600)]
    sided = [text for text in texts if re.search(r"(left|right) of", text)]
    assert len(sided) > 60
    for text in sided:
        [one, two] = [NOUNS[noun] for _, noun in NAMED.findall(text)]
        assert (one == (4 if mirrored else 1)) == (" left of " in text)
        assert {one, two} == {1, 4}
    lights = [side for text in texts for side in re.findall(r"(?:lit|light|sun) from the (\w+)", text)]
    assert set(lights) == {truth.light}
    assert truth.light == ("left" if mirrored else "right")


def test_the_class_name_alone_is_a_frequent_caption() -> None:
    single = replace(pair(), things=(thing(8, 0, 50),))
    texts = [caption(single, (seed,)) for seed in range(1000)]
    alone = sum(text in NOUNS for text in texts) / len(texts)
    assert NAME_ALONE - 0.04 < alone < NAME_ALONE + 0.1
    assert {"mushroom", "red mushroom", "a red mushroom", "a red mushroom on a green floor under an orange sky"} <= {
        *texts
    }
    assert len(set(texts)) > 200


def test_a_class_name_alone_names_a_whole_thing() -> None:
    cut = replace(pair(), things=(thing(8, 0, 50, 0.8),))
    assert not {caption(cut, (seed,)) for seed in range(500)} & {"mushroom", "toadstool"}


def test_only_what_is_visible_enough_is_named() -> None:
    half = replace(pair(), things=(thing(8, 0, 50, ENOUGH - 0.01),))
    texts = {caption(half, (seed,)) for seed in range(200)}
    assert not any(NAMED.search(text) or "empty" in text or "nothing" in text for text in texts)
    small = replace(thing(8, 0, 50), pixels=PIXELS - 1)
    assert not small.named
    assert replace(small, pixels=PIXELS).named
    empty = {caption(replace(half, things=()), (seed,)) for seed in range(200)}
    assert "an empty green floor" in empty


def test_the_vocabulary_is_small_and_unknown_words_are_named() -> None:
    words = vocabulary()
    assert list(words) == sorted(set(words))
    assert {"mushroom", "christmas", "red", "sandy", "left", "a", "an", "grey", "gray"} <= set(words)
    assert len(words) < 150
    assert unknown_words("A red mushroom, left of a Zebra in 3 cafés") == ("zebra", "3", "cafés")

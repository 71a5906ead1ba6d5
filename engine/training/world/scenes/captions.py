"""Captions of crops, from the renderer's truth, by a small grammar; and the words that it knows.

Every caption is lower case. A caption names no fact that the truth does not hold, and only things that are visible
enough (`SeenThing.named`). Class names alone are frequent, because they are prompts too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from engine.training.world.scenes.truth import WHOLE, SeenThing, Truth
from engine.training.world.shapes import THINGS

HUE_NAMES = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")
FLOOR_NAMES = (("sandy", "beige", "sand"), ("green",), ("grey", "gray"), ("brown", "reddish brown"))
"""Of each floor: the name, and other words for it."""
SKY_NAMES = (("blue",), ("orange", "pink", "sunset"), ("teal", "turquoise"))

NAME_ALONE = 0.3
"""Share of the captions of a picture with a whole main thing that are its class name alone."""
SYNONYMS = 0.15
OTHER_NAMES = 0.2  # of floors and skies
APART = 12
"""Two things are left and right of each other if their boxes' middles are so many pixels apart."""

THING = (("{a} {hue} {noun}", 5), ("{hue} {noun}", 3), ("{a} {noun}", 2), ("{noun}", 1), ("the {hue} {noun}", 0.5))
DISTANT = ("{thing} far away", "{thing} in the distance", "a small {hue} {noun}", "{thing} in the background")
CLOSE = ("{thing} close by", "a large {hue} {noun}", "a big {hue} {noun}", "{thing} in the foreground")
DEPTH = 0.12  # share of the things whose distance is named
FRAMES = (
    "{subject}",
    "a picture of {subject}",
    "an image of {subject}",
    "a photo of {subject}",
    "a render of {subject}",
    "there is {subject}",
    "here is {subject}",
)
FRAMED = 0.08
# Without "left" or "right" the things are listed from left to right, so that a prompt has one meaning to learn.
PAIR = (
    ("{one} left of {two}", 3),
    ("{one} to the left of {two}", 2),
    ("{two} right of {one}", 3),
    ("{two} to the right of {one}", 2),
    ("{one} on the left and {two} on the right", 1),
    ("{one} and {two}", 5),
    ("{one} next to {two}", 1),
    ("{one}, {two}", 0.5),
    ("{one} with {two}", 0.5),
)
ASIDE = {"left": "{thing} on the left", "right": "{thing} on the right", "middle": "{thing} in the middle"}
ASIDE_SHARE = 0.08
PLACES = (
    ("", 6),
    (" on {a_floor} floor", 3),
    (" on {a_floor} floor under {a_sky} sky", 3),
    (" under {a_sky} sky", 2),
    (" on the {floor} floor", 0.5),
    (" on {floor} ground", 0.5),
    (" on {a_floor} floor, {sky} sky", 0.5),
    (" with {a_sky} sky", 0.5),
    (" in front of {a_sky} sky", 0.5),
    (", {floor} floor, {sky} sky", 0.5),
)
LIGHTS = (", lit from the {light}", ", light from the {light}", ", the sun is on the {light}", ", sun from the {light}")
LIT = 0.1
EMPTY = (
    ("an empty {floor} floor", 4),
    ("an empty {floor} floor under {a_sky} sky", 3),
    ("nothing on {a_floor} floor", 1),
    ("nothing", 1),
    ("empty", 1),
    ("an empty floor", 1),
    ("an empty scene", 1),
    ("an empty scene with {a_floor} floor and {a_sky} sky", 1),
)
GROUND = (
    ("{a_floor} floor", 3),
    ("{floor} floor", 1),
    ("{a_floor} floor under {a_sky} sky", 4),
    ("{a_sky} sky over {a_floor} floor", 2),
    ("{a_sky} sky", 1),
    ("{floor} floor, {sky} sky", 1),
)
"""Also for crops in which things are visible, but none enough to be named."""

WORD = re.compile(r"[a-z]+")


def caption(truth: Truth, seed: Sequence[int], name_alone: float = NAME_ALONE) -> str:
    """One caption; another seed gives another one."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(seed))))
    things = truth.named
    if not things:
        text = _choose(rng, EMPTY if not truth.things and rng.random() < 0.75 else GROUND)
        return _place(rng, text, truth) + _light(rng, truth)
    main = truth.main
    assert main is not None
    if main.visible >= WHOLE and rng.random() < name_alone:
        return _noun(rng, main)
    if len(things) == 1 or rng.random() < 0.3:
        subject = _aside(rng, _thing(rng, main), main, truth)
    elif len(things) == 2 or rng.random() < 0.5:
        others = sorted((main, _other(rng, things, main)), key=lambda one: one.middle)
        subject = _pair(rng, others[0], others[1])
    else:
        names = [_thing(rng, one) for one in things]
        subject = f"{', '.join(names[:-1])} and {names[-1]}"
    if rng.random() < FRAMED:
        subject = _any(rng, FRAMES[1:]).format(subject=subject)
    return subject + _place(rng, _choose(rng, PLACES), truth) + _light(rng, truth)


def vocabulary() -> tuple[str, ...]:
    """Every word that a caption can have, in alphabetical order."""
    weighted = (*THING, *PAIR, *PLACES, *EMPTY, *GROUND)
    phrases = [*(text for text, _ in weighted), *DISTANT, *CLOSE, *FRAMES, *ASIDE.values(), *LIGHTS]
    literal = [re.sub(r"{\w+}", " ", phrase) for phrase in phrases]
    names = [name for thing in THINGS for name in (thing.name, *thing.synonyms)]
    other = [name for group in (*FLOOR_NAMES, *SKY_NAMES) for name in group]
    return tuple(sorted(set(WORD.findall(" ".join([*literal, *names, *HUE_NAMES, *other, "a an left right and"])))))


def unknown_words(text: str) -> tuple[str, ...]:
    """The words of a prompt that no caption has, in their order."""
    known = set(vocabulary())
    return tuple(dict.fromkeys(word for word in re.findall(r"[^\W_]+", text.lower()) if word not in known))


def with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _any(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _choose(rng: np.random.Generator, weighted: Sequence[tuple[str, float]]) -> str:
    weights = np.array([weight for _, weight in weighted], float)
    return weighted[int(rng.choice(len(weighted), p=weights / weights.sum()))][0]


def _noun(rng: np.random.Generator, one: SeenThing) -> str:
    thing = THINGS[one.label]
    return _any(rng, thing.synonyms) if thing.synonyms and rng.random() < SYNONYMS else thing.name


def _thing(rng: np.random.Generator, one: SeenThing) -> str:
    noun, hue = _noun(rng, one), HUE_NAMES[one.hue]
    template = _choose(rng, THING if one.visible >= WHOLE else [form for form in THING if form[0] != "{noun}"])
    first = hue if "{hue}" in template else noun
    text = template.format(a=with_article(first).split()[0], hue=hue, noun=noun)
    if rng.random() < DEPTH:
        text = _any(rng, DISTANT if one.far else CLOSE).format(thing=text, hue=hue, noun=noun)
    return text


def _other(rng: np.random.Generator, things: Sequence[SeenThing], main: SeenThing) -> SeenThing:
    rest = [one for one in things if one is not main]
    return rest[int(rng.integers(len(rest)))]


def _pair(rng: np.random.Generator, one: SeenThing, two: SeenThing) -> str:
    """one is left of two, unless both are in about the same column."""
    sided = two.middle - one.middle >= APART
    forms = [form for form in PAIR if sided or not re.search("left|right", form[0])]
    return _choose(rng, forms).format(one=_thing(rng, one), two=_thing(rng, two))


def _aside(rng: np.random.Generator, text: str, one: SeenThing, truth: Truth) -> str:
    if rng.random() >= ASIDE_SHARE:
        return text
    where = one.middle / truth.width
    side = "left" if where < 0.35 else "right" if where > 0.65 else "middle"
    return ASIDE[side].format(thing=text)


def _place(rng: np.random.Generator, template: str, truth: Truth) -> str:
    floor, sky = (
        _any(rng, names[1:]) if len(names) > 1 and rng.random() < OTHER_NAMES else names[0]
        for names in (FLOOR_NAMES[truth.floor], SKY_NAMES[truth.sky])
    )
    return template.format(floor=floor, sky=sky, a_floor=with_article(floor), a_sky=with_article(sky))


def _light(rng: np.random.Generator, truth: Truth) -> str:
    return _any(rng, LIGHTS).format(light=truth.light) if rng.random() < LIT else ""

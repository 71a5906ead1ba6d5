"""Whether a picture shows what its prompt asks for, by what the scene classifier sees in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.evaluation.scenes.prompts import CATEGORIES, Prompt, Wanted
from engine.evaluation.scenes.seeing import NAMED, Found, Seen
from engine.training.world.scenes.truth import Truth


@dataclass(frozen=True, slots=True)
class Verdict:
    """None: the prompt does not ask for it. things: all are there. colours: all wanted hues are seen on the wanted
    things, or on any thing if the wanted one is missing. both: all are there in their hues. order: from left to right.
    """

    things: bool | None
    colours: bool | None
    both: bool | None
    floor: bool | None
    sky: bool | None
    order: bool | None

    @property
    def place(self) -> bool | None:
        """Floor and sky."""
        asked = [value for value in (self.floor, self.sky) if value is not None]
        return all(asked) if asked else None

    @property
    def right(self) -> bool:
        """All that the prompt asks for."""
        return all(getattr(self, name) is not False for name in ("things", "both", "floor", "sky", "order"))


def asked_by(truth: Truth, category: str) -> Prompt | None:
    """What a prompt of this category would ask for, had it been written for this crop; None if there is none. It holds
    the classifier against the renderer."""
    named = truth.named
    if category == "place":
        return Prompt("", category, (), truth.floor, truth.sky)
    if category in ("thing", "colour"):
        if len(named) != 1:
            return None
        return Prompt("", category, (Wanted(named[0].label, named[0].hue if category == "colour" else None),))
    if len(named) != 2 or named[0].label == named[1].label:
        return None
    things = tuple(Wanted(one.label, one.hue) for one in named)
    return Prompt("", category, things, ordered=category == "left and right")


def judge(prompt: Prompt, seen: Seen) -> Verdict:
    """Whether what is seen in a picture is what the prompt asks for. Other things in the picture do no harm, unless the
    prompt asks for an empty place. Shapes without a name are no things."""
    wanted = prompt.things
    if not wanted:
        things = not seen.things if prompt.empty else None
        return Verdict(things, None, None, *_where(prompt, seen), None)
    named = [one for one in seen.things if one.confidence >= NAMED]
    by_label = [[one for one in named if one.label == each.label] for each in wanted]
    there = all(by_label)
    in_hue = [_in_hue(each.hue, found) for each, found in zip(wanted, by_label, strict=True)]
    hued = any(each.hue is not None for each in wanted)
    colours = [_in_hue(each.hue, found or named) for each, found in zip(wanted, by_label, strict=True)]
    both = all(in_hue)
    order = None
    if prompt.ordered:
        chosen = in_hue if both else by_label
        order = there and _in_order(chosen)
    return Verdict(
        there, all(map(bool, colours)) if hued else None, both if hued else None, *_where(prompt, seen), order
    )


def _in_hue(hue: int | None, found: Sequence[Found]) -> list[Found]:
    return [one for one in found if hue is None or one.hue == hue]


def _in_order(choices: Sequence[Sequence[Found]]) -> bool:
    """Whether one of each, from left to right, can be chosen."""
    reached = -np.inf
    for found in choices:
        later = [one.middle for one in found if one.middle > reached]
        if not later:
            return False
        reached = min(later)
    return True


def _where(prompt: Prompt, seen: Seen) -> tuple[bool | None, bool | None]:
    return (
        None if prompt.floor is None else seen.floor == prompt.floor,
        None if prompt.sky is None else seen.sky == prompt.sky,
    )


@dataclass(frozen=True, slots=True)
class Score:
    """Of one category: how many prompts; for each part of a Verdict the share that is right, None if it was not asked
    for; right: the share of prompts all of which is right."""

    prompts: int
    parts: dict[str, float | None]
    right: float


PARTS = ("things", "colours", "both", "floor", "sky", "place", "order")


def score(asked: Sequence[Prompt], seen: Sequence[Seen]) -> dict[str, Score]:
    """A row for each category that occurs; picture i was drawn for prompt i."""
    verdicts = [(prompt.category, judge(prompt, each)) for prompt, each in zip(asked, seen, strict=True)]
    found = {}
    for category in CATEGORIES:
        mine = [verdict for name, verdict in verdicts if name == category]
        if mine:
            parts = {part: _share([getattr(verdict, part) for verdict in mine]) for part in PARTS}
            found[category] = Score(len(mine), parts, float(np.mean([verdict.right for verdict in mine])))
    return found


def _share(values: Sequence[bool | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None

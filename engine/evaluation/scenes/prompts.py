"""Prompts by category, after GenEval (Ghosh et al. 2023), in the words of the demo's world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.training.world.scenes.captions import FLOOR_NAMES, HUE_NAMES, SKY_NAMES, with_article
from engine.training.world.shapes import THINGS

CATEGORIES = ("thing", "colour", "place", "two things", "left and right")
PROMPTS = 800


@dataclass(frozen=True, slots=True)
class Wanted:
    """A thing in a prompt; hue None: any."""

    label: int
    hue: int | None = None

    @property
    def name(self) -> str:
        noun = THINGS[self.label].name
        return with_article(noun if self.hue is None else f"{HUE_NAMES[self.hue]} {noun}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """ordered: the things stand from left to right as they are listed. empty: no thing is wanted."""

    text: str
    category: str
    things: tuple[Wanted, ...] = ()
    floor: int | None = None
    sky: int | None = None
    ordered: bool = False
    empty: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Prompt:
        return cls(**data | {"things": tuple(Wanted(**one) for one in data["things"])})


def prompts(count: int = PROMPTS, seed: int = 0) -> list[Prompt]:
    """The same number of each category, in turns; classes take turns too."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, count])))
    return [_MAKERS[CATEGORIES[i % len(CATEGORIES)]](i // len(CATEGORIES), rng) for i in range(count)]


def _hue(label: int, rng: np.random.Generator) -> int:
    hues = THINGS[label].hues
    return hues[int(rng.integers(len(hues)))]


def _thing(turn: int, rng: np.random.Generator) -> Prompt:
    """The bare class name every other time."""
    wanted = Wanted(turn % len(THINGS))
    plain = turn // len(THINGS) % 2 == 0
    return Prompt(THINGS[wanted.label].name if plain else wanted.name, "thing", (wanted,))


def _colour(turn: int, rng: np.random.Generator) -> Prompt:
    wanted = Wanted(turn % len(THINGS), _hue(turn % len(THINGS), rng))
    return Prompt(wanted.name, "colour", (wanted,))


def _place(turn: int, rng: np.random.Generator) -> Prompt:
    """Every fourth time without a thing."""
    floor, sky = turn % len(FLOOR_NAMES), turn // len(FLOOR_NAMES) % len(SKY_NAMES)
    where = f"{with_article(FLOOR_NAMES[floor][0])} floor under {with_article(SKY_NAMES[sky][0])} sky"
    label = int(rng.integers(len(THINGS)))
    wanted = Wanted(label, _hue(label, rng))
    if turn // (len(FLOOR_NAMES) * len(SKY_NAMES)) % 4 == 3:
        return Prompt(f"an empty {where.split(' ', 1)[1]}", "place", (), floor, sky, empty=True)
    return Prompt(f"{wanted.name} on {where}", "place", (wanted,), floor, sky)


def _two(turn: int, rng: np.random.Generator) -> tuple[Wanted, Wanted]:
    first = turn % len(THINGS)
    second = (first + int(rng.integers(1, len(THINGS)))) % len(THINGS)
    return Wanted(first, _hue(first, rng)), Wanted(second, _hue(second, rng))


def _two_things(turn: int, rng: np.random.Generator) -> Prompt:
    one, two = _two(turn, rng)
    return Prompt(f"{one.name} and {two.name}", "two things", (one, two))


def _left_and_right(turn: int, rng: np.random.Generator) -> Prompt:
    one, two = _two(turn, rng)
    text = f"{one.name} left of {two.name}" if turn % 2 else f"{two.name} right of {one.name}"
    return Prompt(text, "left and right", (one, two), ordered=True)


_MAKERS: dict[str, Callable[[int, np.random.Generator], Prompt]] = dict(
    zip(CATEGORIES, (_thing, _colour, _place, _two_things, _left_and_right), strict=True)
)

"""What a panorama of the demo world holds: none to several things, near and far, on one floor under one sky and sun.

The camera of a panorama moves sideways and looks straight ahead (a strip panorama). So every crop has the horizon, the
light and the perspective of the world's single pictures, wherever it is cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.training.world.shapes import THINGS
from engine.training.world.tracing import FLOORS, HALF_VIEW, HORIZONS
from engine.training.world.world import SPLITS

WIDTH = 4.0
"""Of a panorama, in its heights: 512×128 pixels."""
COUNTS = (0.05, 0.07, 0.12, 0.18, 0.22, 0.18, 0.11, 0.07)
"""How often a panorama holds 0, 1, 2 … things, if there is room. A crop of one height shows about one."""
BEYOND = 0.12
"""A thing's middle is at most this far outside the panorama, in heights; the border then cuts it."""
NEAR = (4.2, 5.2)
"""Depths of near things, in the thing's extents: there it is as large as in the world's single pictures."""
FAR = (7.0, 10.5)
"""Depths of far things, in units: half as large."""
NEAR_SHARE = 0.6
OVERLAP = 0.3
"""At most this share of the narrower of two things may lie behind the other; none of two at similar depths."""
TRIES = 30
_PANORAMAS = 18  # keeps the random numbers apart from those of single pictures


@dataclass(frozen=True, slots=True)
class Placed:
    """A thing in a panorama. x: its middle, in heights from the left border. depth: its distance from the camera along
    the floor. yaw in radians."""

    label: int
    hue: int
    x: float
    depth: float
    yaw: float
    proportions: tuple[float, float]

    @property
    def far(self) -> bool:
        return self.depth >= FAR[0]


@dataclass(frozen=True, slots=True)
class Panorama:
    """Things from far to near; pitch and height of the camera; sun: azimuth from the camera's back (positive: from the
    right), elevation. Angles are in radians."""

    things: tuple[Placed, ...]
    floor: int
    sky: int
    pitch: float
    height: float
    sun: tuple[float, float]

    @property
    def light(self) -> str:
        return "right" if self.sun[0] > 0 else "left"


def scale(depth: float, pitch: float, height: float) -> float:
    """How many picture heights one unit at this depth spans, at half the camera's height."""
    return 1 / (2 * HALF_VIEW * (depth * math.cos(pitch) + height / 2 * math.sin(pitch)))


def panorama(split: str, index: int) -> Panorama:
    """The panorama number `index` of a split."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([SPLITS.index(split), index, _PANORAMAS])))
    side = 1.0 if rng.random() < 0.5 else -1.0
    pitch = math.radians(rng.uniform(9.0, 14.0))
    height = 1.0 + 4.7 * math.sin(pitch) + rng.uniform(-0.12, 0.12)
    sun = (side * math.radians(rng.uniform(35.0, 65.0)), math.radians(rng.uniform(40.0, 55.0)))
    floor, sky = int(rng.integers(len(FLOORS))), int(rng.integers(len(HORIZONS)))
    things: list[Placed] = []
    for _ in range(int(rng.choice(len(COUNTS), p=COUNTS))):
        for _ in range(TRIES):
            one = _draw_thing(rng)
            if all(_have_room(one, other, pitch, height) for other in things):
                things.append(one)
                break
    things.sort(key=lambda one: -one.depth)
    return Panorama(tuple(things), floor, sky, pitch, height, sun)


def _draw_thing(rng: np.random.Generator) -> Placed:
    label = int(rng.integers(len(THINGS)))
    thing = THINGS[label]
    near = rng.random() < NEAR_SHARE
    return Placed(
        label=label,
        hue=thing.hues[int(rng.integers(len(thing.hues)))],
        x=rng.uniform(-BEYOND, WIDTH + BEYOND),
        depth=thing.extent * rng.uniform(*NEAR) if near else rng.uniform(*FAR),
        yaw=math.radians(rng.uniform(*thing.turn)),
        proportions=(rng.random(), rng.random()),
    )


def _have_room(one: Placed, other: Placed, pitch: float, height: float) -> bool:
    halves = [THINGS[p.label].extent * scale(p.depth, pitch, height) for p in (one, other)]
    shared = sum(halves) - abs(one.x - other.x)
    return shared <= (OVERLAP * 2 * min(halves) if one.far != other.far else 0.0)

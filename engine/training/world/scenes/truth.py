"""What a crop of a panorama shows, from the renderer: each thing's class, hue, box and visible share, left to right."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.training.world.scenes.panorama import Panorama
from engine.training.world.shapes import THINGS

NOTHING = len(THINGS)
"""In place of a class label where there is no thing."""
ENOUGH = 0.7
"""A thing is named if so much of its silhouette is visible in the crop …"""
PIXELS = 120
"""… and so many of its pixels."""
WHOLE = 0.9
"""A class name alone as a caption needs so much: a prompt for a thing asks for a whole one."""


@dataclass(frozen=True, slots=True)
class SeenThing:
    """box: left, top, right, bottom in pixels of the crop, the last two exclusive. pixels: how many are visible.
    visible: their share of the thing's whole silhouette. cut: the crop's left or right border cuts it."""

    label: int
    hue: int
    box: tuple[int, int, int, int]
    pixels: int
    visible: float
    far: bool
    cut: bool

    @property
    def middle(self) -> float:
        return (self.box[0] + self.box[2]) / 2

    @property
    def named(self) -> bool:
        """Visible enough for a caption."""
        return self.visible >= ENOUGH and self.pixels >= PIXELS


@dataclass(frozen=True, slots=True)
class Truth:
    """things: all of which a pixel is visible, from left to right by their boxes' middles. light: the side that the sun
    is on, `left` or `right`. width: of the crop, in pixels."""

    things: tuple[SeenThing, ...]
    floor: int
    sky: int
    light: str
    width: int

    @property
    def named(self) -> tuple[SeenThing, ...]:
        return tuple(one for one in self.things if one.named)

    @property
    def main(self) -> SeenThing | None:
        """The named thing with the most visible pixels."""
        return max(self.named, key=lambda one: one.pixels, default=None)

    def mirrored(self) -> Truth:
        """The truth of the mirror image."""
        turned = []
        for one in reversed(self.things):
            left, top, right, bottom = one.box
            turned.append(replace(one, box=(self.width - right, top, self.width - left, bottom)))
        return replace(self, things=tuple(turned), light="left" if self.light == "right" else "right")


def crop_truth(world: Panorama, owners: np.ndarray, areas: np.ndarray, left: int, width: int | None = None) -> Truth:
    """The truth of the columns from `left`; as wide as high by default. owners uint8 (H, W) and areas (things,) as in
    Strip."""
    width = owners.shape[0] if width is None else width
    crop = owners[:, left : left + width]
    seen = []
    for number, one in enumerate(world.things, start=1):
        mask = crop == number
        pixels = int(mask.sum())
        if not pixels:
            continue
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        at_border = (columns[0] == 0, columns[-1] == width - 1)
        seen.append(
            SeenThing(
                label=one.label,
                hue=one.hue,
                box=(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1),
                pixels=pixels,
                visible=min(1.0, pixels / max(1, int(areas[number - 1]))),
                far=one.far,
                cut=bool(any(at_border) and pixels < areas[number - 1]),
            )
        )
    seen.sort(key=lambda one: one.middle)
    return Truth(tuple(seen), world.floor, world.sky, world.light, width)

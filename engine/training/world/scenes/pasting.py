"""Pictures with the truth of each cell: single ones, crops of panoramas, and crops pasted together from two, in which
the paste has cut things."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.training.world.scenes.panorama import Panorama, Placed
from engine.training.world.scenes.shards import Panoramas, as_tensor
from engine.training.world.scenes.truth import NOTHING
from engine.training.world.world import Scene, scene

Cells = tuple[np.ndarray, np.ndarray, np.ndarray]

CELL = 8
COVERED = 0.25
"""A cell shows a thing if so much of it is the thing's."""
PASTED = 0.5
"""Share of the training crops that are pasted."""
WHOLE, CUT = 0.95, 0.85
"""A thing is whole if the paste leaves so much of what the crop showed; a fragment if it leaves less than CUT."""
IGNORED = -1
SINGLES = 0.25
"""Share of the single pictures in training, which show their thing larger than panoramas do."""
OTHER = 100
"""Added to the owners of the second crop."""


@dataclass(frozen=True, slots=True)
class Sample:
    """pictures uint8 (n, 3, H, W). Of each cell (n, h, w), int64: things, NOTHING where there is none; hues and whole
    (1, or 0 in a fragment), IGNORED where there is no thing or no clear answer. floors, skies (n,)."""

    pictures: Tensor
    things: Tensor
    hues: Tensor
    whole: Tensor
    floors: Tensor
    skies: Tensor


@dataclass(frozen=True, slots=True)
class Pasted:
    """picture uint8 (H, W, 3); owners (H, W) as in Strip, those of the second crop plus OTHER; kept: the share of each
    owner's visible pixels that the paste left."""

    picture: np.ndarray
    owners: np.ndarray
    kept: dict[int, float]

    @property
    def fragments(self) -> int | None:
        """How many things the paste has cut; None if that is not clear: too little is left or too little was cut."""
        left = {owner: int((self.owners == owner).sum()) for owner in self.kept}
        cut = [owner for owner, share in self.kept.items() if 0 < share < CUT]
        if any(left[owner] < CELL * CELL for owner in cut) or any(CUT <= s < 1 for s in self.kept.values()):
            return None
        return len(cut)


def paste(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], region: np.ndarray) -> Pasted:
    """The second crop where the region, bool (H, W), is True. A crop is its picture and its owners."""
    picture = np.where(region[..., None], second[0], first[0])
    others = np.where(second[1] > 0, second[1] + OTHER, 0)
    owners = np.where(region, others, first[1])
    kept = {}
    for before, part in ((first[1], ~region), (others, region)):
        for owner in np.unique(before[before > 0]):
            mine = before == owner
            kept[int(owner)] = float((mine & part).sum() / mine.sum())
    return Pasted(picture, owners, kept)


@dataclass(frozen=True, slots=True)
class Singles:
    """The first single pictures of a split: uint8 (n, H, W, 3); masks bool (n, H, W): the pixels of the thing."""

    split: str
    pictures: np.ndarray
    masks: np.ndarray


def draw_sample(panoramas: Sequence[Panoramas], singles: Sequence[Singles], count: int, seed: int, step: int) -> Sample:
    """Single pictures, and crops of random panoramas, half of them pasted; each from a random source of its kind, and
    mirrored at random."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, step])))
    rows = []
    for _ in range(count):
        if singles and rng.random() < SINGLES:
            rows.append(_mirrored(*_draw_single(singles[int(rng.integers(len(singles)))], rng), rng))
        else:
            rows.append(_mirrored(*_draw_crop(panoramas[int(rng.integers(len(panoramas)))], rng), rng))
    pictures, cells, worlds = zip(*rows, strict=True)
    things, hues, whole = (torch.from_numpy(np.stack(part)).long() for part in zip(*cells, strict=True))
    floors, skies = (torch.tensor([getattr(w, name) for w in worlds]) for name in ("floor", "sky"))
    return Sample(as_tensor(list(pictures)), things, hues, whole, floors, skies)


def _draw_single(singles: Singles, rng: np.random.Generator) -> tuple[np.ndarray, Cells, Scene]:
    place = int(rng.integers(len(singles.pictures)))
    world = scene(singles.split, place)
    whole = Pasted(singles.pictures[place], singles.masks[place].astype(np.uint8), {1: 1.0})
    return whole.picture, cell_truth([world], whole), world


def _draw_crop(panoramas: Panoramas, rng: np.random.Generator) -> tuple[np.ndarray, Cells, Panorama]:
    place, last = int(rng.integers(len(panoramas))), panoramas.pictures.shape[2] - panoramas.size
    lefts = rng.integers(last + 1, size=2)
    first, second = ((panoramas.crop(place, int(x)), panoramas.crop_owners(place, int(x))) for x in lefts)
    region = draw_region(panoramas.size, rng) if rng.random() < PASTED else np.zeros(first[1].shape, bool)
    pasted, world = paste(first, second, region), panoramas.world(place)
    return pasted.picture, cell_truth(world.things, pasted), world


def _mirrored(
    picture: np.ndarray, cells: Cells, world: Panorama | Scene, rng: np.random.Generator
) -> tuple[np.ndarray, Cells, Panorama | Scene]:
    """The mirror image, or not."""
    if rng.random() < 0.5:
        picture, cells = picture[:, ::-1], (cells[0][:, ::-1], cells[1][:, ::-1], cells[2][:, ::-1])
    return picture, cells, world


def draw_region(size: int, rng: np.random.Generator) -> np.ndarray:
    """bool (size, size): a side of the picture, or a rectangle in it."""
    region = np.zeros((size, size), bool)
    if rng.random() < 0.5:
        region[:, int(rng.integers(size // 8, size - size // 8)) :] = True
    else:
        height, width = (int(rng.integers(size // 8, size * 3 // 4)) for _ in range(2))
        top, left = int(rng.integers(size - height)), int(rng.integers(size - width))
        region[top : top + height, left : left + width] = True
    return region


def cell_truth(named: Sequence[Placed | Scene], pasted: Pasted) -> Cells:
    """things, hues and whole (h, w), as in Sample, of a crop or of a whole panorama. named: the owners' things."""
    height, width = (side // CELL for side in pasted.owners.shape)
    blocks = pasted.owners.reshape(height, CELL, width, CELL)
    things, hues, whole = (np.full((height, width), start) for start in (NOTHING, IGNORED, IGNORED))
    most = np.full((height, width), COVERED * CELL * CELL)
    for owner, share in pasted.kept.items():
        covered = (blocks == owner).sum((1, 3))
        mine = covered >= most
        most = np.maximum(most, covered)
        one = named[(owner - 1) % OTHER]
        things[mine], hues[mine] = one.label, one.hue
        whole[mine] = 1 if share > WHOLE else 0 if share < CUT else IGNORED
    return things, hues, whole

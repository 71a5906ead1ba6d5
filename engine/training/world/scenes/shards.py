"""Panoramas stored on disk with their truth, 64 in a shard, so that an interrupted run resumes; and their crops."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.training.world.renders import fill, save_array, shard_path
from engine.training.world.scenes.panorama import WIDTH, Panorama, panorama
from engine.training.world.scenes.strips import Strip, render_strip
from engine.training.world.scenes.truth import Truth, crop_truth
from engine.training.world.world import SPLITS

SHARD = 64
CROPS = 8
"""Crops of one panorama in the training set; each also has its mirror image."""
CENTRED = 0.35
"""Share of the crops with a thing near their middle."""
PAIRED = 0.35
"""Share of the crops with two neighbours on either side of their middle; the others lie anywhere."""
NEIGHBOURS = 0.7
"""The middles of neighbours are at most this far apart, in widths of a crop."""
JITTER = 0.12
"""What stands in the middle is at most this far from it, in widths."""
MOST_THINGS = 8
_CROPS = 28


def render_panoramas(folder: Path, split: str, count: int, workers: int, size: int = 128) -> None:
    """Render the missing shards of the first `count` panoramas of a split (rounded up to whole shards)."""
    missing = [
        (folder, split, shard, size)
        for shard in range(-(-count // SHARD))
        if not shard_path(folder, split, shard).exists()
    ]
    fill(_render_shard, folder, missing, workers, f"panoramas {split}")


def _render_shard(job: tuple[Path, str, int, int]) -> None:
    folder, split, shard, size = job
    torch.set_num_threads(1)
    strips = [render_strip(panorama(split, shard * SHARD + i), size) for i in range(SHARD)]
    save_shard(folder, split, shard, strips)


def save_shard(folder: Path, split: str, shard: int, strips: list[Strip]) -> None:
    """The truth first: a shard counts as there when its pictures are."""
    areas = np.zeros((len(strips), MOST_THINGS), np.int32)
    for row, strip in zip(areas, strips, strict=True):
        row[: len(strip.areas)] = strip.areas
    path = shard_path(folder, split, shard)
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, owners=np.stack([strip.owners for strip in strips]), areas=areas)
    partial.replace(path.with_suffix(".npz"))
    save_array(path, np.stack([strip.picture for strip in strips]))


@dataclass(frozen=True, slots=True)
class Panoramas:
    """Consecutive panoramas of a split, as stored: pictures uint8 (n, H, W, 3), owners and areas as in Strip. `place`
    counts from the first of them, whose number in the split is `first`."""

    split: str
    first: int
    pictures: np.ndarray
    owners: np.ndarray
    areas: np.ndarray

    @classmethod
    def load(cls, folder: Path, split: str, limit: int | None = None) -> Panoramas:
        """Whole shards in order from 0, up to the first that is missing; at most `limit` panoramas."""
        there = shards(folder, split)
        if not there:
            raise FileNotFoundError(f"no panoramas of split {split!r} in {folder}: run `arpg train panoramas`")
        parts = [cls.shard(folder, split, shard) for shard in there[: None if limit is None else -(-limit // SHARD)]]
        arrays = ([getattr(part, name) for part in parts] for name in ("pictures", "owners", "areas"))
        return cls(split, 0, *(np.concatenate(array)[:limit] for array in arrays))

    @classmethod
    def shard(cls, folder: Path, split: str, shard: int) -> Panoramas:
        path = shard_path(folder, split, shard)
        with np.load(path.with_suffix(".npz")) as truth:
            return cls(split, shard * SHARD, np.load(path), truth["owners"], truth["areas"])

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def size(self) -> int:
        """Height, and side of a crop, in pixels."""
        return int(self.pictures.shape[1])

    def left(self, place: int, number: int) -> int:
        """Where crop `number` of a panorama begins: a column."""
        return crop_left(self.split, self.first + place, number, self.size)

    def crop(self, place: int, left: int) -> np.ndarray:
        """uint8 (H, H, 3)"""
        return self.pictures[place, :, left : left + self.size]

    def crop_owners(self, place: int, left: int) -> np.ndarray:
        """uint8 (H, H), as in Strip"""
        return self.owners[place, :, left : left + self.size]

    def truth(self, place: int, left: int) -> Truth:
        return crop_truth(self.world(place), self.owners[place], self.areas[place], left)

    def world(self, place: int) -> Panorama:
        return panorama(self.split, self.first + place)


def shards(folder: Path, split: str) -> list[int]:
    """The numbers of the stored shards, from 0 up to the first that is missing."""
    count = 0
    while shard_path(folder, split, count).exists():
        count += 1
    return list(range(count))


def crop_left(split: str, index: int, number: int, size: int = 128) -> int:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([SPLITS.index(split), index, number, _CROPS])))
    world, last = panorama(split, index), round(WIDTH * size) - size
    places = sorted(one.x for one in world.things if 0 < one.x < WIDTH)
    between = [(a + b) / 2 for a, b in pairwise(places) if b - a < NEIGHBOURS]
    kind = rng.random()
    middles = between if kind < PAIRED else places if kind < PAIRED + CENTRED else []
    if not middles:
        return int(rng.integers(last + 1))
    middle = middles[int(rng.integers(len(middles)))] + rng.uniform(-JITTER, JITTER)
    return min(max(round((middle - 0.5) * size), 0), last)


def as_tensor(pictures: list[np.ndarray]) -> Tensor:
    """uint8 (n, 3, H, W) of pictures (H, W, 3)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)

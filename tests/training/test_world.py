"""The demo world: pictures are functions of (split, index), and things stay inside the bounding sphere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.training.world.renders import SHARD, load_split, shard_path, to_bytes, to_signed
from engine.training.world.shapes import THINGS, Thing
from engine.training.world.world import SPLITS, render, scene, silhouettes


def test_the_same_scene_is_the_same_picture_alone_and_in_a_batch() -> None:
    scenes = [scene("train", index) for index in (3, 19, 35, 10)]
    together = render(scenes, size=32)
    assert np.array_equal(together, render(scenes, size=32))
    alone = render([scene("train", 19)], size=32)[0]
    # Vector and scalar code may round the last bit differently.
    assert np.abs(together[1].astype(int) - alone.astype(int)).max() <= 1


def test_splits_share_no_scene_and_classes_take_turns() -> None:
    seen = [scene(split, index) for split in SPLITS for index in range(200)]
    assert len(set(seen)) == len(seen)
    assert [scene("test", index).label for index in range(32)] == [*range(16), *range(16)]
    with pytest.raises(ValueError, match="not in"):
        scene("holdout", 0)


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.name)
def test_a_thing_fits_its_bounding_sphere_and_reaches_the_floor(thing: Thing) -> None:
    """Rays are marched inside the bounding sphere only, which would cut off parts outside it."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(3, 20000, generator=generator), dim=0)
    u, v = torch.rand(2, 20000, generator=generator)
    shell = direction * thing.bound
    x, y, z = shell[0], shell[1] + thing.middle, shell[2]
    above = y > 0
    distance = torch.stack(list(thing.shape((x, y, z), u, v))).amin(0)
    assert (distance[above] > 0).all()

    inside = direction * thing.bound * torch.rand(20000, generator=generator) ** (1 / 3)
    near_floor = torch.stack(list(thing.shape((inside[0], 0.05 + 0 * inside[1], inside[2]), u, v))).amin(0)
    assert near_floor.min() < 0.06


def test_a_silhouette_is_where_the_colour_of_the_thing_is_seen() -> None:
    scenes = [scene("test", index) for index in (1, 2, 8, 10)]
    painted = [replace(one, hue=(one.hue + 3) % 8) for one in scenes]
    changed = (render(scenes, size=48) != render(painted, size=48)).any(3)
    found = silhouettes(scenes, size=48)
    assert changed.any((1, 2)).all()
    assert found[changed].all()
    assert (found & ~changed)[:2].sum() == 0  # cubes and rings are all of one colour


def test_every_class_looks_different_from_every_other() -> None:
    """Same camera, colours and sun: the pictures differ only in the thing."""
    base = scene("validation", 0)
    values = {name: getattr(base, name) for name in base.__slots__}
    pictures = render([type(base)(**values | {"label": label, "yaw": 0.3}) for label in range(16)], size=32).astype(int)
    for a in range(16):
        for b in range(a):
            assert np.abs(pictures[a] - pictures[b]).mean() > 2, (THINGS[a].name, THINGS[b].name)


def test_shards_are_read_in_order_and_a_gap_ends_them(tmp_path: Path) -> None:
    for shard in (0, 1, 3):
        np.save(shard_path(tmp_path, "train", shard), np.full((SHARD, 4, 4, 3), shard, np.uint8))
    pictures, labels = load_split(tmp_path, "train")
    assert pictures.shape == (2 * SHARD, 3, 4, 4)
    assert pictures[0].max() == 0
    assert pictures[-1].min() == 1
    assert labels[:17].tolist() == [*range(16), 0]
    assert len(load_split(tmp_path, "train", limit=100)[0]) == 100
    with pytest.raises(FileNotFoundError, match="arpg train render"):
        load_split(tmp_path, "test")


def test_bytes_survive_the_way_to_the_tokenizer_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert (to_bytes(to_signed(values)).int() - values.int()).abs().max() <= 1

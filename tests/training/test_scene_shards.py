"""Stored panoramas and token maps: what is there is not made again, and each row has the truth of its own crop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.training.demos import DEMO
from engine.training.tokenizer import DEMO_TOKENIZER
from engine.training.world.renders import save_array, shard_path
from engine.training.world.scenes import codes as scene_codes
from engine.training.world.scenes import shards
from engine.training.world.scenes.codes import SceneCodes, codes_folder, encode_panoramas
from engine.training.world.scenes.panorama import panorama
from engine.training.world.scenes.shards import CROPS, SHARD, Panoramas, crop_left, render_panoramas, save_shard
from engine.training.world.scenes.strips import Strip

SIZE = 16
CPU = torch.device("cpu")


def painted(index: int) -> Strip:
    """No render, but a picture whose columns tell the panorama and the place, with each thing as a bar."""
    picture = np.zeros((SIZE, 4 * SIZE, 3), np.uint8)
    picture[..., 0] = index % 256
    picture[..., 1] = np.arange(4 * SIZE)
    owners = np.zeros((SIZE, 4 * SIZE), np.uint8)
    things = panorama("train", index).things
    for number in range(1, len(things) + 1):
        owners[4:12, 8 * number : 8 * number + 6] = number
    return Strip(picture, owners, np.full(len(things), 48, np.int32))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards, the second of which follows a gap."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "panoramas").mkdir()
    for shard in (0, 2):
        save_shard(folder / "panoramas", "train", shard, [painted(shard * SHARD + i) for i in range(SHARD)])
    return folder


def made(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[Any]:
    """The jobs of `fill`, which runs them here."""
    jobs: list[Any] = []

    def fill(work: Callable[[Any], None], folder: Path, asked: Sequence[Any], workers: int, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for job in asked:
            jobs.append(job)
            work(job)

    monkeypatch.setattr(module, "fill", fill)
    return jobs


def test_only_missing_shards_are_rendered(runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jobs = made(monkeypatch, shards)
    monkeypatch.setattr(shards, "_render_shard", lambda job: None)
    render_panoramas(runs / "panoramas", "train", 3 * SHARD - 1, workers=1)
    assert [shard for _, _, shard, _ in jobs] == [1]
    # Truth without pictures is what a process leaves that was killed between the two files.
    half = tmp_path / "panoramas"
    half.mkdir()
    save_shard(half, "train", 0, [painted(i) for i in range(SHARD)])
    shard_path(half, "train", 0).unlink()
    render_panoramas(half, "train", 1, workers=1)
    assert [shard for _, _, shard, _ in jobs] == [1, 0]
    with pytest.raises(FileNotFoundError, match="arpg train panoramas"):
        Panoramas.load(half, "train")


def test_panoramas_are_read_up_to_a_gap_with_the_truth_of_their_own(runs: Path) -> None:
    stored = Panoramas.load(runs / "panoramas", "train")
    assert len(stored) == SHARD
    assert len(Panoramas.load(runs / "panoramas", "train", limit=5)) == 5
    later = Panoramas.shard(runs / "panoramas", "train", 2)
    assert later.world(3) == panorama("train", 2 * SHARD + 3)
    assert later.crop(3, 20)[0, 0].tolist() == [2 * SHARD + 3, 20, 0]
    assert later.left(3, 1) == crop_left("train", 2 * SHARD + 3, 1, SIZE)
    truth, world = later.truth(3, 0), later.world(3)
    assert [one.label for one in truth.things] == [one.label for one in world.things][: len(truth.things)]


def test_crops_lie_anywhere_and_many_have_one_thing_or_two_in_their_middle() -> None:
    lefts = [[crop_left("train", index, k) for k in range(CROPS)] for index in range(60)]
    assert lefts == [[crop_left("train", index, k) for k in range(CROPS)] for index in range(60)]
    assert min(map(min, lefts)) >= 0
    assert max(map(max, lefts)) <= 3 * 128
    inside = [
        [one.x * 128 - left for one in panorama("train", index).things if 16 < one.x * 128 - left < 112]
        for index, row in enumerate(lefts)
        for left in row
    ]
    shares = [np.mean([len(row) == count for row in inside]) for count in (0, 1)]
    assert 0.1 < shares[0] < 0.4
    assert 0.3 < shares[1] < 0.7
    assert 1 - sum(shares) > 0.15, "two things or more"
    assert np.mean([any(abs(x - 64) < 18 for x in row) for row in inside]) > 0.35


def test_each_row_has_the_tokens_and_the_truth_of_its_crop(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = made(monkeypatch, scene_codes)

    def encode(_: Any, pictures: torch.Tensor, __: Any) -> torch.Tensor:
        """In place of the tokenizer: the panorama, and the column at the left border."""
        return pictures[:, :2, 0, 0].to(torch.int16)

    monkeypatch.setattr(scene_codes, "encode_pictures", encode)
    encode_panoramas(runs, DEMO, DEMO_TOKENIZER, "train", CPU)
    encode_panoramas(runs, DEMO, DEMO_TOKENIZER, "train", CPU)
    assert len(jobs) == 1
    found = SceneCodes.load(runs, DEMO, "train")
    half = SHARD * CROPS
    assert found.codes.shape == (2 * half, 2)
    stored = Panoramas.load(runs / "panoramas", "train")
    for row in (0, 9, half - 1):
        place, number = divmod(row, CROPS)
        left = stored.left(place, number)
        assert found.codes[row].tolist() == [place, left]
        assert found.codes[half + row].tolist() == [place, left + SIZE - 1]  # the mirror image
        assert found.truths[row] == stored.truth(place, left)
        assert found.truths[half + row] == found.truths[row].mirrored()
    with pytest.raises(FileNotFoundError, match="arpg train scene-codes"):
        SceneCodes.load(runs, DEMO, "validation")


def test_another_tokenizer_has_other_codes(tmp_path: Path) -> None:
    (tmp_path / "vq.safetensors").write_bytes(b"another")
    assert codes_folder(tmp_path, tmp_path) != codes_folder(tmp_path, DEMO)


def test_a_file_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "train-0000.npy"
    save_array(path, np.arange(3))
    with pytest.raises(TypeError):
        save_array(path, Unwritable())  # type: ignore[arg-type]
    assert np.load(path).tolist() == [0, 1, 2]


class Unwritable:
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError

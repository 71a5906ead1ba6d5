"""Samples in shards: what is drawn, in which order it is stored, how a run goes on, and what it refuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Engine
from engine.card import ClassLabel, Defaults, ModelCard
from engine.evaluation.adm import drawing
from engine.evaluation.adm.npz import write_pictures
from engine.evaluation.adm.papers import PAPERS, PaperError
from engine.evaluation.adm.sample_set import SampleSet, only_run
from engine.evaluation.adm.sample_spec import BATCH, SampleError, SampleSpec
from engine.models.model_index import description, known_folders
from tests.support.tiny import random_folder

CARD = ModelCard(
    name="random",
    family="arpg",
    grid=(2, 3),
    stride=2,
    codebook_size=8,
    classes=tuple(ClassLabel(label, f"class {label}") for label in range(3)),
    tasks=("generate",),
    defaults=Defaults(),
    weights="w",
    tokenizer="t",
)


def spec(count: int, seed: int = 0, side: int | None = None) -> SampleSpec:
    return SampleSpec.of(CARD, count, seed, {}, side)


def painted(batch_label: int, seeds: tuple[int, ...]) -> list[np.ndarray]:
    """A picture that tells its class, and which of the class it is by its seed's last bits."""
    return [np.full((4, 6, 3), (batch_label, seed % 251, 7), np.uint8) for seed in seeds]


def fill(samples: SampleSet, shards: list[int]) -> None:
    for shard in shards:
        for batch in reversed(samples.spec.shard(shard)):
            samples.add(batch, painted(batch.label, batch.seeds))


@given(st.integers(1, 60), st.integers(0, 5))
def test_batches_hold_each_class_equally_often_with_seeds_of_their_own(each: int, seed: int) -> None:
    chosen = spec(3 * each, seed)
    batches = [batch for shard in range(chosen.shards) for batch in chosen.shard(shard)]
    assert [batch.index for batch in batches] == list(range(chosen.batches))
    assert all(1 <= batch.count <= BATCH for batch in batches)
    counted = Counter[int]()
    for batch in batches:
        counted[batch.label] += batch.count
    assert counted == {0: each, 1: each, 2: each}
    seeds = [s for batch in batches for s in batch.seeds]
    assert len(set(seeds)) == len(seeds)
    others = spec(3 * each, seed + 1)
    assert not set(seeds) & {s for shard in range(others.shards) for batch in others.shard(shard) for s in batch.seeds}


@pytest.mark.parametrize("each", [1, 10, 13, 50])
def test_the_file_has_one_picture_of_each_class_in_turn(tmp_path: Path, each: int) -> None:
    """The Inception Score takes parts of the file, and each part must have all classes."""
    samples = SampleSet(tmp_path, spec(3 * each))
    fill(samples, samples.missing())
    with np.load(samples.write_npz()) as file:
        assert file.files == ["arr_0"]
        pictures = file["arr_0"]
    assert (pictures.shape, pictures.dtype) == ((3 * each, 4, 6, 3), np.uint8)
    assert pictures[:, 0, 0, 0].tolist() == [0, 1, 2] * each
    batches = [batch for shard in range(samples.spec.shards) for batch in samples.spec.shard(shard) if batch.label == 1]
    assert pictures[1::3, 0, 0, 1].tolist() == [seed % 251 for batch in batches for seed in batch.seeds]


def test_the_file_is_what_numpy_would_write(tmp_path: Path) -> None:
    pictures = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    write_pictures(tmp_path / "own.npz", iter(pictures), pictures.shape)
    np.savez(tmp_path / "numpy.npz", arr_0=pictures)
    with np.load(tmp_path / "own.npz") as own, np.load(tmp_path / "numpy.npz") as numpy:
        assert own.files == numpy.files
        assert np.array_equal(own["arr_0"], numpy["arr_0"])
    with pytest.raises(ValueError, match="2 pictures, not 3"):
        write_pictures(tmp_path / "own.npz", iter(pictures), (3, 3, 4, 3))


def test_a_shard_is_stored_when_it_is_complete(tmp_path: Path) -> None:
    samples = SampleSet(tmp_path, spec(150))
    first = samples.spec.shard(0)
    assert not any(samples.add(batch, painted(batch.label, batch.seeds)) for batch in first[1:])
    assert samples.stored == 0
    assert samples.add(first[0], painted(first[0].label, first[0].seeds))
    assert samples.stored == 100
    again = SampleSet(tmp_path, spec(150))
    assert again.missing() == [1]
    with pytest.raises(SampleError, match="1 of 2 shards are missing"):
        again.write_npz()
    assert not again.npz.exists()
    assert [path.name for path in tmp_path.rglob("*.partial")] == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(spec(30), count=60), "count: 30 there, 60 now"),
        (spec(30, seed=1), "seed: 0 there, 1 now"),
        (replace(spec(30), weights="x"), 'weights: "w" there, "x" now'),
        (SampleSpec.of(CARD, 30, 0, {"guidance_scale": 5.0}, None), "guidance_scale: 4.0 there, 5.0 now"),
        (spec(30, side=3), r"size: \[4, 6\] there, \[3, 3\] now"),
    ],
)
def test_a_folder_takes_no_other_samples(tmp_path: Path, other: SampleSpec, said: str) -> None:
    SampleSet(tmp_path, spec(30))
    with pytest.raises(SampleError, match=said):
        SampleSet(tmp_path, other)
    SampleSet(tmp_path, spec(30))


def test_two_runs_do_not_draw_into_one_folder(tmp_path: Path) -> None:
    with only_run(tmp_path / "new"), pytest.raises(SampleError, match="another run"), only_run(tmp_path / "new"):
        pass
    with only_run(tmp_path / "new"):
        pass


def test_pictures_of_another_shape_are_refused(tmp_path: Path) -> None:
    samples = SampleSet(tmp_path, spec(3))
    with pytest.raises(SampleError, match="batch 0"):
        samples.add(samples.spec.batch(0), [np.zeros((6, 4, 3), np.uint8)])
    with pytest.raises(SampleError, match="batch 0 came as 0 pictures"):
        samples.add(samples.spec.batch(0), [])


def test_pictures_are_stored_at_the_papers_size(tmp_path: Path) -> None:
    samples = SampleSet(tmp_path, spec(3, side=3))
    fill(samples, samples.missing())
    with np.load(samples.write_npz()) as file:
        assert file["arr_0"].shape == (3, 3, 3, 3)
        assert file["arr_0"][2, :, :, 0].tolist() == [[2] * 3] * 3  # a plain picture stays plain


@pytest.mark.parametrize(("count", "nearest"), [(0, "such as 3$"), (2, "such as 3$"), (10, "such as 9 or 12$")])
def test_counts_that_do_not_divide_among_the_classes_are_refused(count: int, nearest: str) -> None:
    with pytest.raises(SampleError, match=f"multiple of the model's 3 classes, {nearest}"):
        spec(count)


def test_settings_that_the_model_lacks_are_refused() -> None:
    fixed = replace(CARD, settings=("guidance_scale", "top_k"))
    assert SampleSpec.of(fixed, 3, 0, {"top_k": 5}, None).settings == {"guidance_scale": 4.0, "top_k": 5}
    with pytest.raises(SampleError, match="schedule, steps: random has no such setting; it takes guid"):
        SampleSpec.of(fixed, 3, 0, {"steps": 5, "schedule": "cosine"}, None)
    with pytest.raises(SampleError, match="draws no classes"):
        SampleSpec.of(replace(CARD, conditioning="text", classes=()), 3, 0, {}, None)


def test_an_engine_draws_the_same_samples_in_one_run_and_in_two(tmp_path: Path) -> None:
    engine = Engine.load(random_folder(tmp_path / "model", num_classes=12), device="cpu")
    chosen = SampleSpec.of(engine.model, 24, 0, {"steps": 3}, None)
    whole, parts = (SampleSet(tmp_path / name, chosen) for name in ("whole", "parts"))
    drawing.draw(engine, whole, lambda: None)
    assert whole.stored == 24

    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    with pytest.raises(Killed):
        drawing.draw(engine, parts, kill)
    resumed = SampleSet(tmp_path / "parts", chosen)
    assert 0 < resumed.stored < 24
    drawing.draw(engine, resumed, lambda: None)
    assert np.array_equal(np.load(whole.write_npz())["arr_0"], np.load(resumed.write_npz())["arr_0"])


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_settings_are_for_its_model_alone(name: str) -> None:
    paper = PAPERS[name]
    data = description(known_folders()[paper.model])
    rows, cols = data["grid"]
    card = replace(CARD, name=paper.model, family=data["family"], grid=(rows, cols))
    paper.check(card)
    paper.check(replace(card, name="own-weights"))
    for other in (
        replace(card, name="demo"),
        replace(card, family="text"),
        replace(card, name="own-weights", grid=(rows, cols + 1)),
    ):
        with pytest.raises(PaperError, match=paper.model):
            paper.check(other)


def test_a_models_defaults_are_one_of_its_papers_settings() -> None:
    for folder in known_folders().values():
        data = description(folder)
        papers = [paper for paper in PAPERS.values() if paper.model == data["name"]]
        if papers:
            assert any(paper.settings == data["defaults"] for paper in papers), data["name"]

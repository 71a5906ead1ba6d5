"""FID, Inception Score, precision and recall: against closed forms, and against ADM's own arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluation.adm.inception import FEATURES, Inception, load_inception
from engine.evaluation.adm.measuring import (
    ReferenceFile,
    ReferenceFileError,
    features_of,
    inception_score,
    measure,
)
from engine.evaluation.metrics import Moments, frechet_of, precision_recall
from tests.evaluation.adm.random_inception import write_random_inception

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Inception:
    return load_inception(write_random_inception(tmp_path_factory.mktemp("w") / "i.pth"), torch.device("cpu"))


@given(SEEDS, st.integers(1, 8))
@settings(max_examples=30)
def test_the_distance_of_diagonal_normals_is_its_closed_form(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    means, deviations = rng.normal(size=(2, size)), rng.uniform(0, 3, size=(2, size))
    a, b = (
        Moments(torch.from_numpy(mean), torch.from_numpy(np.diag(deviation**2)))
        for mean, deviation in zip(means, deviations, strict=True)
    )
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    assert frechet_of(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(SEEDS)
@settings(max_examples=20)
def test_the_distance_is_that_of_adms_suite(seed: int) -> None:
    """Its FIDStatistics.frechet_distance, with the square root of the product by scipy."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(60, 5)), rng.normal(size=(50, 5)) @ rng.normal(size=(5, 5)) + 1
    sigmas = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(sigmas[0].dot(sigmas[1])).real
    shift = a.mean(0) - b.mean(0)
    expected = shift.dot(shift) + np.trace(sigmas[0]) + np.trace(sigmas[1]) - 2 * np.trace(root)
    found = frechet_of(Moments.of(torch.from_numpy(a)), Moments.of(torch.from_numpy(b)))
    assert found == pytest.approx(expected, rel=1e-8)


@given(SEEDS, st.integers(5, 40), st.integers(5, 40))
@settings(max_examples=30)
def test_precision_and_recall_are_those_of_a_search_through_all_pairs(seed: int, real: int, drawn: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(real, 4)).astype(np.float32), rng.normal(0.5, 1, size=(drawn, 4)).astype(np.float32)

    def inside(points: np.ndarray, among: np.ndarray) -> float:
        radii = [sorted(np.linalg.norm(each - among, axis=1))[3] for each in among]
        return float(np.mean([any(np.linalg.norm(each - among, axis=1) <= radii) for each in points]))

    found = precision_recall(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx((inside(b, a), inside(a, b)))


def test_the_score_of_certain_and_even_classes_is_their_number() -> None:
    assert inception_score(torch.eye(8)) == pytest.approx(8)
    assert inception_score(torch.full((20, 8), 1 / 8)) == pytest.approx(1)
    assert inception_score(torch.eye(8)[[0, 0, 0, 0]]) == pytest.approx(1)


def test_the_score_is_a_mean_over_parts_of_5000() -> None:
    certain, even = torch.eye(4).repeat(1250, 1), torch.full((5000, 4), 0.25)
    assert inception_score(torch.cat([certain, even])) == pytest.approx((4 + 1) / 2)
    mixed = torch.stack([certain, even], 1).flatten(0, 1)
    assert inception_score(mixed) == pytest.approx(2, rel=1e-3)


@given(SEEDS)
@settings(max_examples=20)
def test_the_score_is_that_of_adms_suite(seed: int) -> None:
    rng = np.random.default_rng(seed)
    part = rng.dirichlet(np.full(6, 0.3), size=40) + 1e-12
    part /= part.sum(1, keepdims=True)
    divergences = part * (np.log(part) - np.log(np.expand_dims(np.mean(part, 0), 0)))
    expected = np.exp(np.mean(np.sum(divergences, 1)))
    assert inception_score(torch.from_numpy(part)) == pytest.approx(expected, rel=1e-9)


def noise(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 20, 20, 3)).astype(np.uint8)


def test_pictures_against_themselves_are_perfect(network: Inception, tmp_path: Path) -> None:
    np.savez(tmp_path / "pictures.npz", arr_0=noise(0, 6))
    figures = measure(network, iter(noise(0, 6)), ReferenceFile.load(tmp_path / "pictures.npz"))
    assert figures.pictures == 6
    assert figures.fid == pytest.approx(0, abs=1e-4)
    assert (figures.precision, figures.recall) == (1.0, 1.0)
    assert figures.inception_score >= 1
    assert [note for note in figures.notes if "50,000 in the papers" in note]


def test_moments_count_before_pictures_and_pictures_alone_have_precision(network: Inception, tmp_path: Path) -> None:
    """ADM's batches have moments of the whole training set, and 10,000 of its pictures; other files moments alone."""
    moments = Moments.of(features_of(network, noise(1, 5)))
    np.savez(tmp_path / "moments.npz", mu=moments.mean.numpy() + 0.5, sigma=moments.covariance.numpy())
    figures = measure(network, noise(1, 5), ReferenceFile.load(tmp_path / "moments.npz"))
    assert figures.fid == pytest.approx(FEATURES * 0.25, rel=1e-3)
    assert figures.precision is None
    assert figures.recall is None
    assert [note for note in figures.notes if "precision and recall are not computed" in note and "arr_0" in note]
    np.savez(tmp_path / "adm.npz", arr_0=noise(2, 1), mu=np.zeros(FEATURES), sigma=np.eye(FEATURES))
    reference = ReferenceFile.load(tmp_path / "adm.npz")
    assert reference.moments is not None
    assert np.array_equal(reference.pictures(), noise(2, 1))


def test_a_file_that_is_no_reference_is_rejected_with_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", images=noise(3, 1))
    with pytest.raises(ReferenceFileError, match=r"neither mu and sigma nor arr_0, but images"):
        ReferenceFile.load(tmp_path / "other.npz")
    np.savez(tmp_path / "small.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ReferenceFileError, match=r"are not of 2048 features"):
        ReferenceFile.load(tmp_path / "small.npz")
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(ReferenceFileError, match=r"text\.npz"):
        ReferenceFile.load(tmp_path / "text.npz")
    np.savez(tmp_path / "floats.npz", arr_0=np.zeros((2, 4, 4, 3)))
    with pytest.raises(ReferenceFileError, match=r"arr_0 is float64"):
        ReferenceFile.load(tmp_path / "floats.npz").pictures()

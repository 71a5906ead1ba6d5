"""Sampling follows the distribution, and its noise is independent of other positions, seeds and tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from engine.core.guidance import guide
from engine.core.sampling import NO_TOKEN, SamplingTensors, probabilities, sample
from engine.noise import image_seed, uniform

VOCAB = 40
SEEDS = 40_000
LOGITS = torch.randn(VOCAB, generator=torch.Generator().manual_seed(3)) * 2


def params(n: int, temperature: float, top_k: int, top_p: float, seeds: range | None = None) -> SamplingTensors:
    noise = [uniform(seed, "generate", 7) for seed in (seeds or range(n))]
    return SamplingTensors(
        temperature=torch.full((n,), temperature),
        top_k=torch.full((n,), top_k),
        top_p=torch.full((n,), top_p),
        uniform=torch.tensor(noise, dtype=torch.float64),
    )


def expected(temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """The distribution, computed over a sorted list."""
    p = np.exp(LOGITS.double().numpy() / temperature)
    p /= p.sum()
    ranked = np.argsort(-p, kind="stable")
    kept = ranked[: top_k or VOCAB]
    inside = np.cumsum(p[kept] / p[kept].sum()) - p[kept] / p[kept].sum() < top_p
    out = np.zeros(VOCAB)
    out[kept[inside]] = p[kept[inside]]
    return out / out.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.6, 0, 1.0), (1.0, 5, 1.0), (1.0, 0, 0.8), (1.3, 12, 0.9), (1.0, 1, 1.0)],
)
def test_tokens_over_many_seeds_follow_the_distribution(temperature: float, top_k: int, top_p: float) -> None:
    tokens = sample(LOGITS.expand(SEEDS, VOCAB), params(SEEDS, temperature, top_k, top_p))
    counts = np.bincount(tokens.numpy(), minlength=VOCAB)
    wanted = expected(temperature, top_k, top_p) * SEEDS
    assert counts[wanted == 0].sum() == 0, "a filtered token was drawn"
    # Pool the rare tokens, as the chi-square test needs at least five expected in each bin.
    rare = wanted < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    predicted = np.append(wanted[~rare], wanted[rare].sum())
    observed, predicted = observed[predicted > 0], predicted[predicted > 0]
    if len(observed) > 1:
        assert stats.chisquare(observed, predicted).pvalue > 1e-4


def test_the_chi_square_test_can_fail() -> None:
    tokens = sample(LOGITS.expand(SEEDS, VOCAB), params(SEEDS, 1.1, 0, 1.0))
    counts = np.bincount(tokens.numpy(), minlength=VOCAB)
    assert stats.chisquare(counts, expected(1.0, 0, 1.0) * SEEDS).pvalue < 1e-4


def test_temperature_zero_is_argmax() -> None:
    logits = torch.randn(50, VOCAB)
    assert torch.equal(sample(logits, params(50, 0.0, 3, 0.5)), logits.argmax(-1))


def test_requests_with_and_without_filters_share_a_call() -> None:
    logits = torch.randn(4, VOCAB)
    mixed = SamplingTensors(
        temperature=torch.tensor([1.0, 0.0, 0.8, 1.0]),
        top_k=torch.tensor([0, 4, 4, 0]),
        top_p=torch.tensor([1.0, 1.0, 1.0, 0.5]),
        uniform=torch.tensor([0.3, 0.3, 0.9, 0.99], dtype=torch.float64),
    )
    together = sample(logits, mixed)
    for row in range(4):
        alone = SamplingTensors(*(getattr(mixed, f)[row : row + 1] for f in SamplingTensors.__slots__))
        assert torch.equal(sample(logits[row : row + 1], alone), together[row : row + 1])
        assert torch.equal(probabilities(logits[row : row + 1], alone)[0], probabilities(logits, mixed)[row])


def test_extreme_logits_give_no_nan() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e30, -1e30, -1e30]])
    first, second = sample(logits, params(2, 1e-12, 0, 0.9)).tolist()
    assert first == 0
    assert 0 <= second < 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_k", [0, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_give_no_token_and_spoil_no_neighbour(
    temperature: float, top_k: int, bad: float
) -> None:
    logits = torch.randn(3, VOCAB)
    alone = sample(logits, params(3, temperature, top_k, 1.0)).tolist()
    logits[1, 5] = bad
    assert sample(logits, params(3, temperature, top_k, 1.0)).tolist() == [alone[0], NO_TOKEN, alone[2]]


def test_guidance_one_is_the_conditional_branch_to_the_bit() -> None:
    logits = torch.randn(5, VOCAB)
    assert torch.equal(guide(logits, logits, torch.full((5,), 7.0)), logits)
    u = torch.randn(5, VOCAB)
    assert torch.equal(guide(logits, u, torch.full((5,), 3.0)), u + (logits - u) * 3)


SERIES = {
    "positions": lambda i: uniform(11, "generate", i),
    "seeds": lambda i: uniform(i, "generate", 11),
    "images": lambda i: uniform(image_seed(11, i), "generate", 5),
}


@pytest.mark.parametrize("series", SERIES)
def test_noise_is_uniform_and_uncorrelated(series: str) -> None:
    numbers = np.array([SERIES[series](i) for i in range(20_000)])
    assert stats.kstest(numbers, "uniform").pvalue > 1e-4
    for lag in (1, 2, 16, 17):
        assert abs(np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]) < 4 / np.sqrt(len(numbers))


def test_noise_of_tasks_seeds_and_images_is_uncorrelated() -> None:
    cells = range(20_000)
    one = np.array([uniform(5, "generate", c) for c in cells])
    others = {
        "another task": [uniform(5, "inpaint", c) for c in cells],
        "the next seed": [uniform(6, "generate", c) for c in cells],
        "the next image": [uniform(image_seed(5, 1), "generate", c) for c in cells],
        "a neighbouring cell": [uniform(5, "generate", c + 1) for c in cells],
    }
    for name, other in others.items():
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(len(one)), name

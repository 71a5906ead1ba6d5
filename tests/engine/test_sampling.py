"""Sampling follows the distribution, and its noise is independent of other positions, seeds and tasks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from engine.noise import image_seed, uniform
from engine.ops.cpu import CompiledOperations
from engine.ops.guidance import Guidance, guide
from engine.ops.operations import Operations
from engine.ops.reference import TorchOperations
from engine.ops.sampling import NO_TOKEN, SamplingTensors, probabilities

VOCAB = 40
SEEDS = 40_000
LOGITS = torch.randn(VOCAB, generator=torch.Generator().manual_seed(3)) * 2


Draw = Callable[[torch.Tensor, SamplingTensors], torch.Tensor]


@pytest.fixture(params=[TorchOperations, CompiledOperations])
def draw(request: pytest.FixtureRequest) -> Draw:
    operations: Operations = request.param()
    return lambda logits, params: operations.sample(logits.clone(), params, torch.zeros(1, dtype=torch.int32))


def params(n: int, temperature: float, top_k: int, top_p: float) -> SamplingTensors:
    noise = [uniform(seed, "generate", 7) for seed in range(n)]
    return mixed_params([temperature] * n, [top_k] * n, [top_p] * n, noise)


def mixed_params(temperature: list[float], top_k: list[int], top_p: list[float], noise: list[float]) -> SamplingTensors:
    return SamplingTensors(
        temperature=torch.tensor(temperature),
        top_k=torch.tensor(top_k, dtype=torch.int32),
        top_p=torch.tensor(top_p),
        uniform=torch.tensor(noise, dtype=torch.float64),
        slots=torch.full((len(noise),), -1, dtype=torch.int32),
        greedy=not any(temperature),
        filtered=any(top_k) or min(top_p) < 1,
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
def test_tokens_over_many_seeds_follow_the_distribution(
    draw: Draw, temperature: float, top_k: int, top_p: float
) -> None:
    tokens = draw(LOGITS.expand(SEEDS, VOCAB).contiguous(), params(SEEDS, temperature, top_k, top_p))
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


def test_the_chi_square_test_can_fail(draw: Draw) -> None:
    tokens = draw(LOGITS.expand(SEEDS, VOCAB).contiguous(), params(SEEDS, 1.1, 0, 1.0))
    counts = np.bincount(tokens.numpy(), minlength=VOCAB)
    assert stats.chisquare(counts, expected(1.0, 0, 1.0) * SEEDS).pvalue < 1e-4


def test_temperature_zero_is_argmax(draw: Draw) -> None:
    logits = torch.randn(50, VOCAB)
    assert torch.equal(draw(logits, params(50, 0.0, 3, 0.5)), logits.argmax(-1))


def test_requests_with_and_without_filters_share_a_call(draw: Draw) -> None:
    logits = torch.randn(4, VOCAB)
    settings: tuple[list[float], list[int], list[float], list[float]]
    settings = [1.0, 0.0, 0.8, 1.0], [0, 4, 4, 0], [1.0, 1.0, 1.0, 0.5], [0.3, 0.3, 0.9, 0.99]
    mixed = mixed_params(*settings)
    together = draw(logits, mixed)
    for row in range(4):
        temperature, top_k, top_p, noise = settings
        alone = mixed_params([temperature[row]], [top_k[row]], [top_p[row]], [noise[row]])
        assert torch.equal(draw(logits[row : row + 1], alone), together[row : row + 1])
        assert torch.equal(probabilities(logits[row : row + 1], alone)[0], probabilities(logits, mixed)[row])


def test_extreme_logits_give_no_nan(draw: Draw) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e30, -1e30, -1e30]])
    first, second = draw(logits, params(2, 1e-12, 0, 0.9)).tolist()
    assert first == 0
    assert 0 <= second < 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_k", [0, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_give_no_token_and_spoil_no_neighbour(
    draw: Draw, temperature: float, top_k: int, bad: float
) -> None:
    logits = torch.randn(3, VOCAB)
    alone = draw(logits, params(3, temperature, top_k, 1.0)).tolist()
    logits[1, 5] = bad
    assert draw(logits, params(3, temperature, top_k, 1.0)).tolist() == [alone[0], NO_TOKEN, alone[2]]


def test_guidance_one_is_the_conditional_branch_to_the_bit() -> None:
    rows, five = torch.randn(10, VOCAB), torch.arange(5, dtype=torch.int32)
    assert torch.equal(guide(rows, Guidance(five, five, torch.full((5,), 7.0))), rows[:5])
    expected = rows[5:] + (rows[:5] - rows[5:]) * 3
    assert torch.equal(guide(rows, Guidance(five, five + 5, torch.full((5,), 3.0))), expected)


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

"""The fused sampler against the reference: the same token, unless the random number lies at the border of two, or a
token at the border of top-p."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.ops.gpu.launching import launch
from engine.ops.gpu.sampling import sample
from engine.ops.sampling import NO_TOKEN, probabilities

BORDER = 1e-5
Row = tuple[float, int, float, float]  # temperature, top_k, top_p, uniform
# No value of top_p is a sum of equal probabilities: there the two may round to different sides.
ROWS = st.tuples(
    st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    st.sampled_from([0, 1, 2, 5, 30, 5000]),
    st.sampled_from([0.0173, 0.3541, 0.6217, 0.9011, 1.0]),
    st.integers(0, 2**47).map(lambda n: (2 * n + 1) / 2**49),
)


def draw(logits: Tensor, rows: list[Row], *, filtered: bool = True, greedy: bool = False) -> Tensor:
    """Every token is also scattered to the entry of the same index."""
    temperature, top_k, top_p, uniform = zip(*rows, strict=True)
    scattered = torch.full((len(rows) + 1,), -7, dtype=torch.int32)
    tokens = sample(
        launch, logits, torch.tensor(temperature), torch.tensor(top_k, dtype=torch.int32), torch.tensor(top_p),
        torch.tensor(uniform, dtype=torch.float64), torch.arange(len(rows), dtype=torch.int32), scattered,
        greedy=greedy, filtered=filtered,
    )  # fmt: skip
    assert torch.equal(scattered[:-1], tokens)
    assert scattered[-1] == -7
    return tokens


def check(logits: Tensor, rows: list[Row], tokens: Tensor, *, filtered: bool = True) -> None:
    temperature, top_k, top_p, uniform = (torch.tensor(column) for column in zip(*rows, strict=True))
    params: Any = SimpleNamespace(temperature=temperature, top_k=top_k, top_p=top_p, filtered=filtered)
    probs = probabilities(logits, params).double()
    cumulative = probs.cumsum(-1) / probs.sum(-1, keepdim=True)
    for row, token in enumerate(tokens.tolist()):
        if temperature[row] == 0:
            assert token == logits[row].argmax()
            continue
        if probs[row, token] == 0:
            assert on_the_border_of_top_p(logits[row] / temperature[row], int(top_k[row]), float(top_p[row]), token)
            continue
        before = cumulative[row, token - 1] if token else 0.0
        assert before - BORDER <= uniform[row] <= cumulative[row, token] + BORDER


def on_the_border_of_top_p(scaled: Tensor, top_k: int, top_p: float, token: int) -> bool:
    """Whether the tokens before this one hold top_p of what top-k leaves, within rounding."""
    ordered, ids = scaled.double().softmax(-1).sort(descending=True, stable=True)
    kept = ordered[: top_k or len(ordered)]
    rank = ids.tolist().index(token)
    before = float(kept[:rank].sum() / kept.sum())
    return rank < len(kept) and abs(before - top_p) < BORDER


@settings(max_examples=15)
@given(
    rows=st.lists(ROWS, min_size=1, max_size=6),
    vocab=st.sampled_from([1, 37, 64, 1500]),
    levels=st.sampled_from([1, 3, 40, 10**6]),
    seed=st.integers(0, 999),
)
def test_tokens_are_those_of_the_reference_with_ties_in_the_order_of_ids(
    rows: list[Row], vocab: int, levels: int, seed: int
) -> None:
    """levels: so many distinct logits in a row; few of them make ties."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(levels, (len(rows), vocab), generator=generator) * (7.0 / levels)
    check(logits, rows, draw(logits, rows))


@settings(max_examples=5)
@given(rows=st.lists(ROWS, min_size=1, max_size=4), seed=st.integers(0, 999))
def test_without_filters_every_token_may_be_drawn(rows: list[Row], seed: int) -> None:
    plain = [(temperature, 0, 1.0, uniform) for temperature, _, _, uniform in rows]
    logits = torch.randn(len(rows), 1500, generator=torch.Generator().manual_seed(seed)) * 3
    tokens = draw(logits, plain, filtered=False)
    check(logits, plain, tokens, filtered=False)
    assert torch.equal(tokens, draw(logits, plain)), "the two variants of the kernel draw alike"


def test_filters_keep_the_first_of_equal_tokens_also_across_chunks() -> None:
    logits = torch.full((4, 1500), -1e4)
    logits[:, 500:521] = 0.0
    rows: list[Row] = [
        (1.0, top_k, top_p, uniform) for top_k, top_p in ((15, 1.0), (0, 0.6217)) for uniform in (2**-49, 1 - 2**-48)
    ]
    assert draw(logits, rows).tolist() == [500, 514, 500, 513]


def test_ends_of_the_random_numbers_draw_the_first_and_the_last_token() -> None:
    logits = torch.zeros(2, 1500)
    assert draw(logits, [(1.0, 0, 1.0, 2**-49), (1.0, 0, 1.0, 1 - 2**-48)]).tolist() == [0, 1499]


def test_greedy_takes_the_first_of_equal_logits() -> None:
    logits = torch.zeros(1, 1500)
    logits[0, [1200, 40, 1400]] = 3.0
    assert draw(logits, [(0.0, 3, 0.5, 0.9)], greedy=True).tolist() == [40]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_gives_no_token_and_spoils_no_neighbour(temperature: float, bad: float) -> None:
    logits = torch.randn(3, 37, generator=torch.Generator().manual_seed(1))
    rows: list[Row] = [(temperature, 4, 0.9011, 0.3)] * 3
    alone = draw(logits, rows).tolist()
    logits[1] = bad
    assert draw(logits, rows).tolist() == [alone[0], NO_TOKEN, alone[2]]
    logits[1] = 0
    logits[1, 9] = bad
    assert draw(logits, rows).tolist() == [alone[0], NO_TOKEN, alone[2]]


def test_extreme_logits_and_temperatures() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e30, -1e30, -1e30], [3e38, -3e38, 0.0]])
    first, second, third = draw(logits, [(1e-12, 0, 0.9011, 0.5)] * 3).tolist()
    assert (first, third) == (0, 0)
    assert 0 <= second < 3


def test_padding_draws_but_writes_nothing() -> None:
    scattered, n = torch.full((2,), -7, dtype=torch.int32), 2
    sample(
        launch, torch.full((n, 37), float("nan")), torch.ones(n), torch.zeros(n, dtype=torch.int32), torch.ones(n),
        torch.full((n,), 0.5, dtype=torch.float64), torch.full((n,), -1, dtype=torch.int32), scattered,
        greedy=False, filtered=True,
    )  # fmt: skip
    assert scattered.tolist() == [-7, -7]

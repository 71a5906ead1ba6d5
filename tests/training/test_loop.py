"""Shared parts of all training loops: rates, averages, a team of processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from engine.training.loop import AveragedWeights, learning_rate, save_checkpoint
from engine.training.parallel import Team, run_team


def test_the_average_follows_the_weights_with_its_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    averaged = AveragedWeights(model, decay=0.9)
    nn.init.ones_(model.weight)
    for _ in range(3):
        averaged.update(model, step=1000)
    assert averaged.values["weight"].item() == pytest.approx(1 - 0.9**3)


def test_the_rate_warms_up_and_falls_to_its_floor() -> None:
    rates = [learning_rate(step, steps=100, warm_up=10, floor=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[100] == pytest.approx(0.1)


def _meet(team: Team, out: Path) -> None:
    model = nn.Linear(2, 1)
    model.weight.grad = torch.full((1, 2), float(team.rank + 1))
    model.bias.grad = torch.full((1,), 10.0 * team.rank)
    team.average_gradients(model)
    found = {
        "weight": model.weight.grad,
        "bias": model.bias.grad,
        "share": team.share(torch.arange(6)),
        "sum": team.sum(torch.ones(2)),
        "first": team.from_first(torch.tensor([team.rank + 5])),
    }
    save_checkpoint(out / f"{team.size}-{team.rank}.pt", found)


def test_a_team_averages_gradients_and_cuts_the_batch(tmp_path: Path) -> None:
    run_team(_meet, 2, tmp_path)
    run_team(_meet, 1, tmp_path)
    first, second, alone = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("2-0", "2-1", "1-0"))
    for found in (first, second):
        assert found["weight"].tolist() == [[1.5, 1.5]]
        assert found["bias"].tolist() == [5.0]
        assert found["sum"].tolist() == [2.0, 2.0]
        assert found["first"].tolist() == [5]
    assert sorted([*first["share"].tolist(), *second["share"].tolist()]) == list(range(6))
    assert alone["weight"].tolist() == [[1.0, 1.0]]
    assert alone["share"].tolist() == list(range(6))

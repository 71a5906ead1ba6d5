"""The statistics that the load test is judged by, on series whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from load.shares import always_waiting, of_fair_share
from load.trend import trend

EVERY = 5.0  # s between samples
MINUTES = 15
TEN_MINUTES = 600.0
LEVEL = 500e6


def noise(alike: float, deviation: float, seed: int) -> np.ndarray:
    """Of a process, neighbours as alike as said, for MINUTES."""
    random = np.random.default_rng(seed)
    series = np.empty(round(MINUTES * 60 / EVERY))
    held = random.normal(0, deviation)
    for i in range(len(series)):
        held = alike * held + random.normal(0, deviation * np.sqrt(1 - alike**2))
        series[i] = held
    return series


def series(growth: float, alike: float, seed: int, deviation: float = 1e6) -> tuple[np.ndarray, np.ndarray]:
    """growth: a share of the level, in ten minutes."""
    noisy = noise(alike, deviation, seed)
    times = np.arange(len(noisy)) * EVERY
    return times, LEVEL * (1 + growth * times / TEN_MINUTES) + noisy


def test_the_slope_of_a_straight_line_is_exact() -> None:
    times, values = series(0.02, 0, 0, deviation=0)
    found = trend(times, values)
    # The level is the mean: the line's at half time.
    at_half = 1 + 0.02 * times[-1] / 2 / TEN_MINUTES
    assert found.growth(TEN_MINUTES) == pytest.approx(0.02 / at_half)
    assert found.growth_bound(TEN_MINUTES) == pytest.approx(0.02 / at_half)


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9])
def test_the_bound_is_above_the_truth_as_often_as_it_says(alike: float) -> None:
    truth = 0.005 * LEVEL / TEN_MINUTES
    above = sum(trend(*series(0.005, alike, seed)).upper > truth for seed in range(400))
    assert above / 400 >= 0.945  # 97.5 % for one side, less what 400 draws leave open


def test_neighbours_that_are_alike_widen_the_bound() -> None:
    """The same spread of values: whoever took them as independent would be sure of a slope that is not there."""

    def width(alike: float) -> float:
        found = [trend(*series(0, alike, seed)) for seed in range(50)]
        return float(np.median([each.upper - each.slope for each in found]))

    assert width(0.9) > 2.5 * width(0.0)


@pytest.mark.parametrize(("growth", "passes"), [(0.0, True), (0.004, True), (0.02, False), (0.05, False)])
def test_a_leak_is_told_from_none(growth: float, passes: bool) -> None:
    for seed in range(20):
        assert (trend(*series(growth, 0.8, seed)).growth_bound(TEN_MINUTES) < 0.01) == passes


def test_growth_by_steps_is_growth() -> None:
    """As an allocator asks for memory: nothing for minutes, then much at once."""
    times = np.arange(180) * EVERY
    values = LEVEL * (1 + 0.01 * np.floor(times / 200))
    assert trend(times, values).growth_bound(TEN_MINUTES) > 0.01


def test_too_few_samples_are_no_trend() -> None:
    with pytest.raises(ValueError, match="10 samples"):
        trend([0, 1, 2], [1, 1, 1])


def test_shares_go_by_weight_among_those_who_always_wait() -> None:
    looks = [{"a", "b", "c"}] * 99 + [{"a", "b"}]
    got = {"a": 10.0, "b": 40.0, "c": 10.0, "guest": 400.0}
    weights = {"a": 1, "b": 4, "c": 1, "guest": 1}
    assert of_fair_share(got, weights, looks) == pytest.approx({"a": 1.0, "b": 1.0, "c": 1.0})


def test_whoever_got_less_than_half_shows() -> None:
    shares = of_fair_share({"a": 9, "b": 1}, {"a": 1, "b": 1}, [{"a", "b"}] * 10)
    assert shares == pytest.approx({"a": 1.8, "b": 0.2})


def test_who_got_nothing_at_all_has_share_0() -> None:
    assert of_fair_share({"a": 9}, {"a": 1, "b": 1}, [{"a", "b"}] * 10)["b"] == 0
    assert of_fair_share({}, {"a": 1, "b": 1}, [{"a", "b"}] * 10) == {"a": 0, "b": 0}


def test_who_paused_has_no_claim() -> None:
    assert always_waiting([{"a", "b"}] * 90 + [{"a"}] * 10) == {"a"}

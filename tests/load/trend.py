"""Whether a series grows: its slope, with a bound that holds where neighbours are alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

MOST_ALIKE = 0.97
"""As far as neighbouring residuals are believed to resemble each other: beyond it no bound would be finite."""


@dataclass(frozen=True, slots=True)
class Trend:
    """level: the mean. slope: its growth in a second, by least squares; upper: where its 95 % interval ends."""

    level: float
    slope: float
    upper: float

    def growth(self, seconds: float) -> float:
        """As a share of the level, in so many seconds."""
        return self.slope * seconds / self.level

    def growth_bound(self, seconds: float) -> float:
        return self.upper * seconds / self.level


def trend(times: Sequence[float], values: Sequence[float]) -> Trend:
    """Least squares; the interval by Newey and West with prewhitening (Andrews and Monahan 1992).

    The memory of a process at one moment is much what it was a moment before: an interval that took the samples as
    independent would be far too narrow.
    """
    x, y = np.asarray(times, dtype=float), np.asarray(values, dtype=float)
    n = len(x)
    if n < 10:
        raise ValueError("a trend takes 10 samples")
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread
    residuals = y - y.mean() - slope * centred
    scores = centred * residuals
    alike = _alikeness(scores)
    surprise = scores[1:] - alike * scores[:-1]
    variance = _long_run(surprise) / (1 - alike) ** 2
    error = math.sqrt(max(variance, 0.0) * n * n / (n - 2)) / spread
    # As many independent samples as there are, by how alike they are.
    freedom = max(3.0, n * (1 - alike) / (1 + alike) - 2)
    return Trend(float(y.mean()), slope, slope + float(stats.t.ppf(0.975, freedom)) * error)


def _alikeness(series: np.ndarray) -> float:
    """Of neighbours, with the small-sample bias taken off (Kendall 1954)."""
    before = float(series[:-1] @ series[:-1])
    if before == 0.0:
        return 0.0
    found = float(series[1:] @ series[:-1]) / before
    return min(MOST_ALIKE, max(0.0, found + (1 + 3 * found) / len(series)))


def _long_run(series: np.ndarray) -> float:
    """The variance of its sum, a sample: Bartlett's weights."""
    n = len(series)
    lags = math.ceil(4 * (n / 100) ** (2 / 9))
    total = float(series @ series)
    for lag in range(1, lags + 1):
        total += 2 * (1 - lag / (lags + 1)) * float(series[lag:] @ series[:-lag])
    return total / n

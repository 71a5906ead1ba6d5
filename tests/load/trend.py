"""Whether a series grows: its slope, with a bound that holds where neighbours are alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

BLOCKS = 20
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
    """Least squares; the interval is that of the means of BLOCKS stretches, prewhitened (Andrews and Monahan 1992).

    The memory of a process at one moment is much what it was a moment before: an interval that took the samples as
    independent would be far too narrow. And it jitters while it drifts: from sample to sample the drift would hide
    behind the jitter, of which the means have little left.
    """
    n = len(values)
    if n < 10:
        raise ValueError("a trend takes 10 samples")
    x, y = (_means(np.asarray(each, dtype=float)) for each in (times, values))
    n = len(x)
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread
    scores = centred * (y - y.mean() - slope * centred)
    alike = _alikeness(scores)
    surprise = scores[1:] - alike * scores[:-1]
    variance = float(surprise @ surprise) / (1 - alike) ** 2
    error = math.sqrt(variance * n / (n - 2)) / spread
    # As many independent means as there are, by how alike they are.
    freedom = max(3.0, n * (1 - alike) / (1 + alike) - 2)
    return Trend(float(y.mean()), slope, slope + float(stats.t.ppf(0.975, freedom)) * error)


def _means(series: np.ndarray) -> np.ndarray:
    """Of BLOCKS stretches, or of single samples where there are fewer; what is over at the beginning is left out."""
    length = max(1, len(series) // BLOCKS)
    return series[len(series) % length :].reshape(-1, length).mean(axis=1)


def _alikeness(series: np.ndarray) -> float:
    """Of neighbours, with the small-sample bias taken off (Kendall 1954)."""
    before = float(series[:-1] @ series[:-1])
    if before == 0.0:
        return 0.0
    found = float(series[1:] @ series[:-1]) / before
    return min(MOST_ALIKE, max(0.0, found + (1 + 3 * found) / len(series)))

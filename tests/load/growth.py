"""How fast a series grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Growth:
    """level: the median of all samples. slope: units per second."""

    level: float
    slope: float

    def share(self, seconds: float) -> float:
        """Growth over this many seconds, as a share of the level."""
        return self.slope * seconds / self.level


def growth(times: Sequence[float], values: Sequence[float]) -> Growth:
    """Slope from the median of the first third of the samples to the median of the last third.

    Medians ignore short peaks. For 15 minutes of samples every 5 s that scatter by 0.5 % of the level, with a
    correlation of 0.8 between neighbours, the standard error is about 0.3 % of the level in 10 minutes: a limit of 1 %
    passes a process without a leak and finds a leak of 2 %.

    times: seconds. Raises ValueError for fewer than 10 samples.
    """
    if len(values) < 10:
        raise ValueError("growth needs at least 10 samples")
    third = len(values) // 3
    seconds = np.mean(times[-third:]) - np.mean(times[:third])
    rise = np.median(values[-third:]) - np.median(values[:third])
    return Growth(level=float(np.median(values)), slope=float(rise / seconds))

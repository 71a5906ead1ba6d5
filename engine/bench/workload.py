"""The requests that are measured, and when they arrive."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, product

from engine.card import ModelCard
from engine.request import Request, Schedule

MIX_STEPS = (8, 16, 24, 32, 48, 64)
MIX_GUIDANCE = (1.5, 2.0, 3.0)
MIX_SCHEDULES: tuple[Schedule, ...] = ("cosine", "arccos")


def equal(card: ModelCard, count: int, steps: int, grid: tuple[int, int] | None = None) -> list[Request]:
    """Requests with the model's default settings; classes and seeds differ."""
    return [replace(_request(card, index), steps=steps, grid=grid) for index in range(count)]


def mix(card: ModelCard, count: int, seed: int = 0) -> list[Request]:
    """Requests whose steps, guidance and schedule are drawn evenly, each for itself."""
    rng = random.Random(f"{seed}/mix")
    return [_with(card, index, rng.choice(_settings())) for index in range(count)]


def mix_of(card: ModelCard, count: int, settings: int, seed: int = 0) -> list[Request]:
    """The mix with exactly this number of different settings."""
    rng = random.Random(f"{seed}/mix of settings")
    chosen = rng.sample(_settings(), settings)
    chosen += rng.choices(chosen, k=count - settings)
    rng.shuffle(chosen)
    return [_with(card, index, one) for index, one in enumerate(chosen)]


def poisson(count: int, seed: int = 0) -> list[float]:
    """Arrival times of a Poisson process with one request a second."""
    rng = random.Random(f"{seed}/arrivals")
    return list(accumulate(rng.expovariate(1.0) for _ in range(count)))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values don't exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _settings() -> list[tuple[int, float, Schedule]]:
    return list(product(MIX_STEPS, MIX_GUIDANCE, MIX_SCHEDULES))


def _with(card: ModelCard, index: int, settings: tuple[int, float, Schedule]) -> Request:
    steps, guidance, schedule = settings
    return replace(_request(card, index), steps=steps, guidance_scale=guidance, schedule=schedule)


def _request(card: ModelCard, index: int) -> Request:
    defaults = card.defaults_of("generate")
    return Request(
        class_label=index % len(card.classes),
        seed=index,
        guidance_scale=defaults.guidance_scale,
        schedule=defaults.schedule,  # type: ignore[arg-type]
        guidance_schedule=defaults.guidance_schedule,  # type: ignore[arg-type]
        temperature=defaults.temperature,
    )

"""The time of a step by phase, measured by wrapping the engine's methods from outside."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from engine.core.engine import Engine
from engine.request import Request

PHASES = {
    "schedule": "_scheduler.schedule",
    "pack": "_runner.pack",
    "model": "_runner.forward",
    "sample": "_runner.draw",
    "deliver": "step",
}
"""The method of the engine that is timed as each phase, without the time of the phases that it calls. So delivery is
the rest of `step`."""


@contextmanager
def timed(engine: Engine) -> Iterator[dict[str, float]]:
    """Seconds of each phase while the context is open. A phase whose method the engine has not is left out. On a GPU
    these are the times of the host."""
    spent: dict[str, float] = defaultdict(float)
    children: list[float] = []
    wrapped: list[tuple[Any, str]] = []

    def timing(phase: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            children.append(0.0)
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                took = time.perf_counter() - start
                spent[phase] += took - children.pop()
                if children:
                    children[-1] += took

        return call

    for phase, path in PHASES.items():
        *owners, name = path.split(".")
        owner: Any = engine
        for part in owners:
            owner = getattr(owner, part, None)
        if (method := getattr(owner, name, None)) is not None:
            setattr(owner, name, timing(phase, method))
            wrapped.append((owner, name))
    try:
        yield spent
    finally:
        for owner, name in wrapped:
            delattr(owner, name)


def milliseconds_a_step(engine: Engine, requests: Sequence[Request]) -> dict[str, float]:
    """Milliseconds of each phase of a step, the mean over all steps of these requests."""
    before = engine.stats().steps_total
    with timed(engine) as spent:
        engine.generate(requests)
    steps = engine.stats().steps_total - before
    return {phase: 1000 * spent[phase] / steps for phase in PHASES if phase in spent}

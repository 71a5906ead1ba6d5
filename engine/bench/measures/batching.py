"""Images per second, drawn together and one after another."""

from __future__ import annotations

import statistics
from functools import partial

from engine.bench.pairs import compare
from engine.bench.workload import equal
from engine.core.engine import Engine


def batching(model: str, device: str, images: int, rounds: int) -> str:
    """Medians of paired rounds."""
    engine = Engine.load(model, device=device)
    steps = engine.model.defaults_of("generate").steps
    requests = equal(engine.model, images, steps)

    def one_by_one() -> None:
        for request in requests:
            engine.generate([request])

    found = compare("", images, one_by_one, partial(engine.generate, requests), rounds)
    return (
        f"{images} images of {steps} steps, {rounds} rounds: "
        f"together {images / statistics.median(found.engine):.2f}/s, "
        f"one by one {images / statistics.median(found.baseline):.2f}/s, "
        f"ratio {statistics.median(found.ratios):.2f} ({min(found.ratios):.2f} … {max(found.ratios):.2f})"
    )

"""Draws samples with an engine in this process."""

from __future__ import annotations

from collections.abc import Callable

from engine.core.engine import Engine
from engine.evaluation.adm.sample_set import SampleSet
from engine.request import Request


def draw(engine: Engine, samples: SampleSet, progress: Callable[[], None]) -> None:
    """Draws what is missing, a shard at a time. progress is called after each."""
    settings = samples.spec.settings
    for shard in samples.missing():
        batches = samples.spec.shard(shard)
        requests = [
            Request(class_label=batch.label, seed=seed, **settings) for batch in batches for seed in batch.seeds
        ]
        tokens, together = engine.generate(requests), engine.codec.together
        pictures = [
            picture
            for start in range(0, len(tokens), together)
            for picture in engine.codec.decode_many(tokens[start : start + together])
        ]
        for batch in batches:
            samples.add(batch, pictures[: batch.count])
            del pictures[: batch.count]
        progress()

"""`arpg bench engine` and `arpg bench baseline`: they print tables and return the same as JSON."""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from engine.bench import pairs
from engine.bench.comparison import arrivals, batches, differing_tokens
from engine.bench.measures import growth
from engine.bench.measures.memory import bytes_per_row, cache_use, default_dtype, peak_memory
from engine.bench.measures.phases import milliseconds_a_step
from engine.bench.static_batch.loop import StaticBatchLoop, arpg_config
from engine.bench.workload import equal, mix_of
from engine.core.engine import Engine
from engine.models.model_index import description
from engine.models.registry import find

PARTS = ("memory", "growth", "phases", "batches", "arrivals")
CHECKED = 4
"""Images of which the baseline's tokens are compared with the engine's."""


def engine(options: argparse.Namespace) -> dict[str, Any]:
    """The parts that --only names, or all."""
    found: dict[str, Any] = {}
    measured = Engine.load(options.model, device=options.device)
    parts = options.only or PARTS
    card, rounds = measured.model, options.rounds
    images, steps = options.equal[0]
    if "memory" in parts:
        found["memory"] = _memory(measured, options.model, options.device, images, steps)
    if "growth" in parts:
        print(f"\n{growth.HEADER}")
        found["growth"] = []
        for concurrency in options.concurrency:
            for point_steps in options.steps:
                for grid in options.grid or [card.grid]:
                    point = growth.measure(measured, concurrency, point_steps, grid, rounds)
                    print(point, flush=True)
                    found["growth"].append(point.to_json())
    if "phases" in parts:
        found["phases"] = _phases(measured, images, steps, rounds)
    if "batches" in parts or "arrivals" in parts:
        baseline = StaticBatchLoop.load(options.model, device=options.device)
        print(f"\n{pairs.HEADER}")
    if "batches" in parts:
        found["batches"] = []
        for comparison in batches(measured, baseline, options.equal, options.mixed, rounds):
            print(comparison, flush=True)
            found["batches"].append(comparison.to_json())
    if "arrivals" in parts:
        result = arrivals(measured, baseline, options.arrivals, rounds, options.seed)
        print(result)
        found["arrivals"] = result.to_json()
    return found


def baseline(options: argparse.Namespace) -> dict[str, Any]:
    """The baseline alone, after a check that it draws the engine's tokens."""
    loop = StaticBatchLoop.load(options.model, device=options.device)
    measured = Engine.load(options.model, device=options.device)
    checked = mix_of(measured.model, CHECKED, CHECKED)
    found: dict[str, Any] = {"tokens_that_differ": differing_tokens(measured, loop, checked), "batches": []}
    total = CHECKED * measured.model.positions
    print(f"{found['tokens_that_differ']} of {total} tokens differ from the engine's\n")
    print("| | images/s | ms a step |\n|---|---|---|")
    for images, steps in options.equal:
        requests = equal(measured.model, images, steps)
        loop.draw_batch(requests)
        times = [pairs.seconds(partial(loop.draw_batch, requests)) for _ in range(options.rounds)]
        median = statistics.median(times)
        print(f"| {images} equal, {steps} steps | {images / median:.2f} | {1000 * median / steps:.2f} |", flush=True)
        found["batches"].append({"images": images, "steps": steps, "seconds": times})
    return found


def _memory(measured: Engine, model: str | Path, device: str, images: int, steps: int) -> dict[str, Any]:
    loaded = peak_memory(device)
    requests = equal(measured.model, images, steps)
    row = bytes_per_row(arpg_config(description(find(model))), measured.config.dtype or default_dtype(device))
    use = cache_use(measured, requests[0], row)
    measured.generate(requests)
    peak = peak_memory(device)
    print(
        f"KV cache of an image of {steps} steps: {use.reserved:,} bytes reserved, {use.minimum:,} at least, "
        f"ratio {use.reserved / use.minimum:.3f}\n"
        f"peak memory: {loaded / 2**20:.0f} MiB after loading, {peak / 2**20:.0f} MiB after {images} images at once"
    )
    return {"kv_cache": use.to_json(), "peak_loaded": loaded, "peak_drawn": peak, "images": images, "steps": steps}


def _phases(measured: Engine, images: int, steps: int, rounds: int) -> dict[str, Any]:
    requests = equal(measured.model, images, steps)
    runs = [milliseconds_a_step(measured, requests) for _ in range(rounds + 1)][1:]
    typical = sorted(runs, key=lambda run: sum(run.values()))[rounds // 2]
    total = sum(typical.values())
    print(f"\nms of a step, {images} requests of {steps} steps: {total:.2f}")
    for phase, spent in typical.items():
        print(f"  {phase:<9}{spent:8.3f}  {spent / total:6.1%}")
    return {"images": images, "steps": steps, "milliseconds": typical}

"""`arpg bench engine` and `arpg bench baseline`: they print tables and return the same as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from engine.bench import pairs
from engine.bench.comparison import arrivals, batches, differing_tokens
from engine.bench.measures import growth, shared_kv
from engine.bench.measures.memory import bytes_per_row, cache_use, peak_memory
from engine.bench.measures.phases import milliseconds_a_step
from engine.bench.spread import Spread
from engine.bench.static_batch.loop import StaticBatchLoop, arpg_config
from engine.bench.workload import equal, mix_of
from engine.core.engine import Engine, EngineConfig
from engine.models.model_index import description
from engine.models.registry import find

CHECKED = 4
"""Images of which the baseline's tokens are compared with the engine's."""
BRANCHES = 2
"""Of a guided request."""


@dataclass(frozen=True)
class Measured:
    """The engine under measurement, and what is compared with it."""

    options: argparse.Namespace
    engine: Engine

    @cached_property
    def baseline(self) -> StaticBatchLoop:
        options = self.options
        return StaticBatchLoop.load(options.model, device=options.device, dtype=options.dtype)


def engine(options: argparse.Namespace) -> dict[str, Any]:
    """The parts that --only names, or the quick ones."""
    parts = options.only or QUICK
    config = _config(options, options.dtype, growth="growth" in parts)
    measured = Measured(options, Engine.load(options.model, device=options.device, config=config))
    found: dict[str, Any] = {"model": measured.engine.model.name, "dtype": name_of(options.dtype)}
    return found | {part: PARTS[part](measured) for part in PARTS if part in parts}


def baseline(options: argparse.Namespace) -> dict[str, Any]:
    """The baseline alone, after a check that it draws the engine's tokens."""
    measured = Measured(
        options, Engine.load(options.model, device=options.device, config=EngineConfig(dtype=options.dtype))
    )
    card, loop = measured.engine.model, measured.baseline
    differing = differing_tokens(measured.engine, loop, mix_of(card, CHECKED, CHECKED))
    found: dict[str, Any] = {"tokens_that_differ": differing, "batches": []}
    print(f"{differing} of {CHECKED * card.positions} tokens differ from the engine's\n")
    print("| | images/s (spread) | ms a step (spread) |\n|---|---|---|")
    for images, steps in options.equal:
        requests = equal(card, images, steps)
        loop.draw_batch(requests)
        times = [pairs.seconds(partial(loop.draw_batch, requests)) for _ in range(options.rounds)]
        rates = Spread.of(images / taken for taken in times)
        each = Spread.of(1000 * taken / steps for taken in times)
        print(f"| {images} equal, {steps} steps | {rates} | {each} |", flush=True)
        found["batches"].append({"images": images, "steps": steps, "seconds": times})
    return found


def _config(options: argparse.Namespace, dtype: torch.dtype, *, growth: bool = False) -> EngineConfig:
    """On a CPU, with a KV cache in which all requests of a workload fit at once, so that none waits for pages. On a GPU
    the engine's own cache is larger."""
    if options.device.startswith("cuda"):
        return EngineConfig(dtype=dtype)
    rows, cols = description(find(options.model))["grid"]
    sizes = [(max(size for size, _ in options.equal), rows * cols), (options.mixed, rows * cols)]
    if growth:
        sizes += [(max(options.concurrency), rows * cols)]
        sizes += [(options.equal[0][0], rows * cols) for rows, cols in options.grid or ()]
    page = EngineConfig().page_size
    needed = max(images * BRANCHES * (cells // page + 1) * page for images, cells in sizes)
    return EngineConfig(dtype=dtype, cache_tokens=needed)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _memory(measured: Measured) -> dict[str, Any]:
    options, engine = measured.options, measured.engine
    images, steps = options.equal[0]
    loaded = peak_memory(options.device)
    requests = equal(engine.model, images, steps)
    row = bytes_per_row(arpg_config(description(find(options.model))), options.dtype)
    use = cache_use(engine, requests[0], row)
    engine.generate(requests)
    peak = peak_memory(options.device)
    print(
        f"KV cache of an image of {steps} steps: {use.reserved:,} bytes reserved, {use.minimum:,} at least, "
        f"ratio {use.reserved / use.minimum:.3f}\n"
        f"peak memory: {loaded / 2**20:.0f} MiB after loading, {peak / 2**20:.0f} MiB after {images} images at once"
    )
    return {"kv_cache": use.to_json(), "peak_loaded": loaded, "peak_drawn": peak, "images": images, "steps": steps}


def _growth(measured: Measured) -> dict[str, Any]:
    options, engine = measured.options, measured.engine
    requests, steps = options.equal[0]
    grids = options.grid or [engine.model.grid]
    print(f"\n{growth.HEADER}")
    points = []
    for settings in growth.cross((requests, steps, engine.model.grid), options.concurrency, options.steps, grids):
        point = growth.measure(engine, settings, options.rounds)
        print(point, flush=True)
        points.append(point.to_json())
    return {"centre": {"concurrency": requests, "steps": steps, "grid": engine.model.grid}, "points": points}


def _shared_kv(measured: Measured) -> list[dict[str, Any]]:
    options = measured.options
    steps = options.equal[0][1]
    config = _config(options, options.dtype, growth=True)
    both = shared_kv.engines(options.model, options.device, options.dtype, config)
    print("\n" + shared_kv.HEADER.format(steps=steps))
    found = []
    for one in shared_kv.measure(*both, options.concurrency, steps, options.rounds):
        print(one, flush=True)
        found.append(one.to_json())
    return found


def _phases(measured: Measured) -> dict[str, Any]:
    images, steps = measured.options.equal[0]
    requests = equal(measured.engine.model, images, steps)
    rounds = measured.options.rounds
    runs = [milliseconds_a_step(measured.engine, requests) for _ in range(rounds + 1)][1:]
    typical = sorted(runs, key=lambda run: sum(run.values()))[rounds // 2]
    total = Spread.of(sum(run.values()) for run in runs)
    print(f"\nms of a step, {images} requests of {steps} steps: {total}")
    for phase, spent in typical.items():
        print(f"  {phase:<9}{spent:8.3f}  {spent / sum(typical.values()):6.1%}")
    return {"images": images, "steps": steps, "milliseconds": typical, "total": total.to_json()}


def _batches(measured: Measured) -> list[dict[str, Any]]:
    options = measured.options
    print(f"\n{pairs.HEADER}")
    found = []
    for comparison in batches(measured.engine, measured.baseline, options.equal, options.mixed, options.rounds):
        print(comparison, flush=True)
        found.append(comparison.to_json())
    return found


def _dtypes(measured: Measured) -> list[dict[str, Any]]:
    """The engine in float32 and in the dtype of the measurement."""
    options = measured.options
    config = _config(options, torch.float32)
    exact = Engine.load(options.model, device=options.device, config=config)
    print(f"\n| | float32, images/s | {name_of(options.dtype)}, images/s | ratio (spread) |\n|---|---|---|---|")
    found = []
    for images, steps in options.equal:
        requests = equal(exact.model, images, steps)
        name = f"{images} equal, {steps} steps"
        one = pairs.compare(
            name, images, partial(exact.generate, requests), partial(measured.engine.generate, requests), options.rounds
        )
        print(one, flush=True)
        found.append(one.to_json())
    return found


def _arrivals(measured: Measured) -> dict[str, Any]:
    options = measured.options
    print(f"\n{pairs.HEADER}")
    result = arrivals(measured.engine, measured.baseline, options.arrivals, options.rounds, options.seed)
    print(result)
    return result.to_json()


PARTS: dict[str, Callable[[Measured], Any]] = {
    "memory": _memory,
    "growth": _growth,
    "shared-kv": _shared_kv,
    "phases": _phases,
    "batches": _batches,
    "dtypes": _dtypes,
    "arrivals": _arrivals,
}
QUICK = ("memory", "phases", "batches")

"""`arpg bench`: how fast the engine draws.

engine: images per second against the baseline, the time of a step by phase, memory; with --only also growth with
requests, steps and grid, shared keys and values against a set for each layer, bfloat16 against float32, and arrivals.
baseline: a static-batch loop that samples as ARPG's authors do.  host: what the host does for a step beside the device.
batching: together and one by one.  flip-rate: what float rounding changes when requests share steps.
serve: a whole service over HTTP, with options of its own: arpg bench serve --help.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from engine.bench import reports
from engine.bench.environment import environment
from engine.bench.measures.batching import batching
from engine.bench.measures.host import host_time
from engine.bench.measures.memory import default_dtype
from engine.bench.measures.rounding import flip_rate
from engine.bench.random_weights import random_folder
from engine.bench.static_batch.loop import Unsuitable
from engine.models.checkpoint import CheckpointError
from engine.ops.choice import choose_device

PLOTTED = {"growth", "shared-kv"}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    choose_device(options.device)  # else a wrong name fails later, without a reason
    if "dtype" in options and options.dtype is None:
        options.dtype = default_dtype(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.verb == "engine" and options.plots:
        if not PLOTTED.intersection(options.only or ()):
            print(f"arpg bench: --plots needs --only with {' or '.join(sorted(PLOTTED))}", file=sys.stderr)
            return 1
        try:
            from engine.bench import plots
        except ImportError as error:
            print(f"arpg bench: --plots needs the extra train: {error}", file=sys.stderr)
            return 1
    facts = environment(options.device)
    print(", ".join(f"{name} {fact}" for name, fact in facts.items()))
    try:
        with ExitStack() as stack:
            if options.random_weights:
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="arpg-bench-")))
                options.model = random_folder(options.model, folder)
            found = _measured(options)
    except (CheckpointError, Unsuitable) as error:
        print(f"arpg bench: {error}", file=sys.stderr)
        return 1
    record = {"environment": facts, options.verb: found}
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if options.verb == "engine" and options.plots:
        plots.save_plots(json.loads(json.dumps(record)), options.plots)
    return 0


def _measured(options: argparse.Namespace) -> Any:
    if options.verb == "engine":
        return reports.engine(options)
    if options.verb == "baseline":
        return reports.baseline(options)
    if options.verb == "batching":
        text = batching(options.model, options.device, options.images, options.rounds)
    elif options.verb == "host":
        text = host_time(options.model, options.requests)
    else:
        text = flip_rate(options.model, options.device, options.images, options.batch_invariant)
    print(text)
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="arpg bench", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    engine = _verb(verbs, "engine", "images per second, against the baseline, by phase; memory")
    baseline = _verb(verbs, "baseline", "a static-batch loop that samples as ARPG's authors do, with the same tokens")
    together = _verb(verbs, "batching", "images per second, drawn together and one by one")
    host = _verb(verbs, "host", "what the host does for a step beside the device")
    flips = _verb(verbs, "flip-rate", "how often float rounding changes tokens when requests share steps")

    for verb in (engine, baseline, together):
        verb.add_argument("--rounds", type=int, default=5, help="measurements of each figure, or pairs (%(default)s)")
    for verb in (engine, baseline):
        verb.add_argument("--dtype", type=_dtype, help="float32 or bfloat16; default: the engine's on the device")
        verb.add_argument(
            "--equal",
            type=_product,
            nargs="+",
            default=[(16, 64), (4, 64), (1, 64), (16, 16)],
            metavar="IMAGESxSTEPS",
            help="batches of equal requests; the first is also that of the other parts (16x64 4x64 1x64 16x16)",
        )
    engine.add_argument(
        "--only", nargs="+", choices=reports.PARTS, help="the parts to measure; default: " + " ".join(reports.QUICK)
    )
    engine.add_argument("--mixed", type=int, default=32, help="images of the mixed batch; 0: none (%(default)s)")
    engine.add_argument("--arrivals", type=int, default=120, help="requests of an open-loop run (%(default)s)")
    engine.add_argument("--seed", type=int, default=0, help="seed of the mix and of the arrival times (%(default)s)")
    engine.add_argument(
        "--concurrency", type=int, nargs="+", default=[1, 4, 16, 64], help="requests at once, for growth and shared-kv"
    )
    engine.add_argument("--steps", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256], help="steps, for growth")
    engine.add_argument(
        "--grid", type=_product, nargs="+", metavar="ROWSxCOLS", help="grids, for growth; default: the model's"
    )
    engine.add_argument("--plots", type=Path, metavar="FILE", help="plot growth and shared-kv to this file (PNG)")
    together.add_argument("--images", type=int, default=16, help="images of each run (%(default)s)")
    host.add_argument("--requests", type=int, default=64, help="requests that run at once (%(default)s)")
    flips.add_argument("--images", type=int, default=64, help="images to draw alone and together (%(default)s)")
    flips.add_argument("--batch-invariant", action="store_true", help="compute in fixed tiles of rows")
    return parser


def _verb(verbs: Any, name: str, summary: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary)
    verb.add_argument("--model", default="demo", help="a name that `arpg models` lists, or a model folder (demo)")
    verb.add_argument("--random-weights", action="store_true", help="random weights of the model's sizes")
    verb.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu or cuda; default: cuda where there is one",
    )
    verb.add_argument("--threads", type=int, help="compute threads of torch; default: as many as torch chooses")
    verb.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file too")
    return verb


def _dtype(name: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def _product(text: str) -> tuple[int, int]:
    """Two numbers as in 16x64."""
    first, second = text.split("x")
    return int(first), int(second)


if __name__ == "__main__":
    raise SystemExit(main())

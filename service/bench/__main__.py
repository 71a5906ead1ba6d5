"""`arpg bench serve`, or `python -m service.bench`: measures a service over HTTP."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.bench import closed_loop, open_loop
from service.bench.alone import EngineAlone
from service.bench.figures import machine
from service.bench.mix import DEFAULT, Mix
from service.bench.process import Served, own_service

DESCRIPTION = """
Measures a service over HTTP. Closed loop: images/s with PNG answers against the engine alone, in turn on the same
machine; processor time per image by part; the latency of two cheap GETs under full load. Open loop: Poisson arrivals
from a mix file, at rates that rise until goodput collapses.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    report: dict[str, Any] = {"machine": machine(), "model": parsed.model}
    print(json.dumps(report), flush=True)
    with contextlib.ExitStack() as stack:
        key = os.environ.get("ARPG_BENCH_KEY")
        served = Served(parsed.url, key, None) if parsed.url else stack.enter_context(own_service(parsed.model))
        classes = served.classes(parsed.model)
        if parsed.loop in ("closed", "both"):
            report["closed_loop"] = _closed(parsed, served, classes, stack)
        if parsed.loop in ("open", "both"):
            mix = Mix.read(parsed.mix, classes)
            report["open_loop"] = open_loop.sweep(served, mix, first_rate=parsed.rate, seconds=parsed.seconds)
            print(json.dumps(report["open_loop"], indent=1), flush=True)
    if parsed.json is not None:
        parsed.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _closed(parsed: argparse.Namespace, served: Served, classes: int, stack: contextlib.ExitStack) -> dict[str, Any]:
    alone = EngineAlone(parsed.model)
    stack.callback(alone.close)
    mix, results = Mix.equal(parsed.steps, classes), []
    for clients in parsed.clients:
        pictures = clients * parsed.rounds if clients > 1 else 4 * parsed.rounds
        pairs = closed_loop.compare(served, alone, mix, clients=clients, pictures=pictures, pairs=parsed.pairs)
        print(json.dumps(pairs, indent=1), flush=True)
        results.append(pairs)
    if not parsed.probe:
        return {"engine_alone_threads": alone.threads, "pairs": results}
    most = max(parsed.clients)
    probes = closed_loop.probe(served, mix, clients=most, pictures=4 * most * parsed.rounds)
    print(json.dumps(probes, indent=1), flush=True)
    return {"engine_alone_threads": alone.threads, "pairs": results, "gets_under_load": probes}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("arpg bench serve", description=DESCRIPTION)
    parser.add_argument("--url", help="a service that runs already (a key: ARPG_BENCH_KEY); default: an own arpg serve")
    parser.add_argument("--model", default="demo", help="the model, for the service and for the engine alone")
    parser.add_argument(
        "--loop",
        choices=("closed", "open", "both"),
        default="both",
        help="closed: each client waits for its pictures; open: requests arrive at a rate (both)",
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16], help="closed loop: how many at once")
    parser.add_argument("--steps", type=int, default=64, help="closed loop: the steps of every picture")
    parser.add_argument("--pairs", type=int, default=5, help="closed loop: measured pairs, after one to warm up")
    parser.add_argument("--rounds", type=int, default=2, help="closed loop: pictures of each client in one measurement")
    parser.add_argument("--no-probe", dest="probe", action="store_false", help="closed loop: no GETs under load")
    parser.add_argument("--mix", type=Path, default=DEFAULT, help="open loop: the mix file")
    parser.add_argument("--rate", type=float, help="open loop: the first rate, in arrivals a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="open loop: how long each rate lasts")
    parser.add_argument("--json", type=Path, help="the file for the whole report")
    return parser


if __name__ == "__main__":
    sys.exit(main())

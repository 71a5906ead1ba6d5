"""Measurements of the engine: `python -m engine.bench flip-rate`, `python -m engine.bench batching`.

They compare paired runs in one process, because absolute times say little on a shared machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

import torch

from engine.core.engine import Engine, EngineConfig
from engine.core.runner import StepLogits
from engine.request import Request


def flip_rate(model: str, device: str, images: int, batch_invariant: bool) -> str:
    """Draw each request alone and then all together; how many logits differ, and how many tokens flip.

    A picture is compared up to the first step that differs from its solo run, since later steps depend on it.
    """
    logits: dict[int, list[torch.Tensor]] = defaultdict(list)

    def watch(step: StepLogits) -> None:
        logits[step.id].append(step.logits)

    config = EngineConfig(batch_invariant=batch_invariant)
    engine = Engine.load(model, device=device, config=config, watch_logits=watch)
    labels = len(engine.model.classes)
    requests = [Request(class_label=i % labels, seed=i, steps=16 + 16 * (i % 4)) for i in range(images)]
    solo = [_steps_drawn(engine, [request])[0] for request in requests]
    solo_logits = [logits[index] for index in sorted(logits)]
    logits.clear()
    crowd = _steps_drawn(engine, requests)
    crowd_logits = [logits[index] for index in sorted(logits)]

    flips = compared = differing = counted = 0
    for image in range(images):
        for step, (alone, together) in enumerate(zip(solo[image], crowd[image], strict=True)):
            pair = solo_logits[image][step], crowd_logits[image][step]
            differing += int((pair[0] != pair[1]).sum())
            counted += pair[0].numel()
            compared += len(alone)
            changed = sum(a != b for a, b in zip(alone, together, strict=True))
            if changed:
                flips += changed
                break
    return (
        f"{images} pictures, batch_invariant={batch_invariant}: "
        f"{differing / counted:.1%} of logits differ, {flips} of {compared} tokens flip"
    )


def batching(model: str, device: str, images: int, rounds: int) -> str:
    """Pictures per second, drawn together and one after another; medians of paired rounds."""
    engine = Engine.load(model, device=device)
    defaults = engine.model.defaults
    labels = len(engine.model.classes)
    requests = [
        Request(class_label=i % labels, seed=i, steps=defaults.steps, guidance_scale=defaults.guidance_scale)
        for i in range(images)
    ]
    engine.generate(requests[:1])
    ratios, together, apart = [], [], []
    for _ in range(rounds):
        together.append(_seconds(engine, [requests]))
        apart.append(_seconds(engine, [[request] for request in requests]))
        ratios.append(apart[-1] / together[-1])
    return (
        f"{images} pictures of {defaults.steps} steps, {rounds} rounds: "
        f"together {images / statistics.median(together):.2f}/s, "
        f"one by one {images / statistics.median(apart):.2f}/s, "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
    )


def _steps_drawn(engine: Engine, requests: Sequence[Request]) -> list[list[tuple[int, ...]]]:
    """The tokens of each step of each request."""
    steps: dict[int, list[tuple[int, ...]]] = {engine.add(request): [] for request in requests}
    while not engine.idle:
        for update in engine.step():
            steps[update.id].append(update.tokens)
    return list(steps.values())


def _seconds(engine: Engine, batches: Sequence[Sequence[Request]]) -> float:
    start = time.perf_counter()
    for requests in batches:
        engine.generate(requests)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.bench", description=__doc__)
    parser.add_argument("--model", default="demo", help="a shipped model or a model folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    verbs = parser.add_subparsers(dest="verb", required=True)
    flips = verbs.add_parser("flip-rate", help="how often float rounding changes tokens when requests share steps")
    flips.add_argument("--images", type=int, default=64)
    flips.add_argument("--batch-invariant", action="store_true")
    batch = verbs.add_parser("batching", help="pictures per second, drawn together and one by one")
    batch.add_argument("--images", type=int, default=16)
    batch.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.verb == "flip-rate":
        print(flip_rate(arguments.model, arguments.device, arguments.images, arguments.batch_invariant))
    else:
        print(batching(arguments.model, arguments.device, arguments.images, arguments.rounds))


if __name__ == "__main__":
    main()

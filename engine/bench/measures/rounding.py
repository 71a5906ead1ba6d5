"""How often float rounding changes tokens when requests share steps."""

from __future__ import annotations

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


def _steps_drawn(engine: Engine, requests: Sequence[Request]) -> list[list[tuple[int, ...]]]:
    """The tokens of each step of each request."""
    steps: dict[int, list[tuple[int, ...]]] = {engine.add(request): [] for request in requests}
    while not engine.idle:
        for update in engine.step():
            steps[update.id].append(update.tokens)
    return list(steps.values())

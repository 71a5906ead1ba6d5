"""LlamaGen's and PAR's published numbers, through the paged, batched path with other requests in flight."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from pathlib import Path

import pytest
import torch

from engine import Engine, EngineConfig, Request
from engine.core.runner import StepLogits
from engine.plans.par import region_groups
from tests.support.tiny import golden, golden_config, golden_folder

DRAWING_ORDER = {
    "llamagen_tiny": tuple(range(64)),
    "par4_tiny": tuple(chain(*region_groups((8, 8), 4))),
}


@pytest.mark.parametrize("name", DRAWING_ORDER)
@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("batch_invariant", [False, True])
def test_the_golden_tokens_are_drawn_from_the_golden_logits(
    tmp_path: Path, name: str, page_size: int, batch_invariant: bool
) -> None:
    numbers, settings = golden(f"{name}.golden"), golden_config(name)
    seen: dict[int, list[torch.Tensor]] = defaultdict(list)

    def watch(step: StepLogits) -> None:
        seen[step.id].append(step.logits)

    engine = Engine.load(
        golden_folder(tmp_path / "golden", name),
        device="cpu",
        config=EngineConfig(
            page_size=page_size, cache_tokens=4096, batch_invariant=batch_invariant, check_every_step=True
        ),
        watch_logits=watch,
    )
    order: dict[int, list[int]] = defaultdict(list)
    tokens: dict[int, list[int]] = defaultdict(list)
    members: dict[int, int] = {}
    busiest = 0
    # Each golden class three times, steps apart, with requests of other guidance and sampling between them.
    arrivals = settings["classes"] * 3
    while arrivals or not engine.idle:
        if arrivals:
            label, stranger = arrivals.pop(), len(arrivals)
            engine.add(Request(class_label=stranger, seed=stranger, guidance_scale=stranger % 3, top_k=5))
            golden_one = Request(class_label=label, guidance_scale=settings["cfg_scale"], temperature=0)
            members[engine.add(golden_one)] = label
        updates = engine.step()
        busiest = max(busiest, len(updates))
        for update in updates:
            order[update.id] += update.positions
            tokens[update.id] += update.tokens
    assert busiest >= 8

    for member, label in members.items():
        row = settings["classes"].index(label)
        assert tuple(order[member]) == DRAWING_ORDER[name]
        assert tokens[member] == numbers["tokens"][row].tolist()
        assert len(seen[member]) == settings["calls"]
        for index, logits in enumerate(seen[member]):
            reference = numbers[f"logits.{index:03d}"][[row, len(settings["classes"]) + row]]
            off = (logits - reference).abs().max() / reference.abs().max()
            assert off <= 1e-4, f"step {index}"

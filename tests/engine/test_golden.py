"""The published numbers, through the paged, batched path with other requests in flight."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import Engine, EngineConfig, Request
from engine.core.runner import StepLogits
from engine.models.arpg import ARPG, ARPGConfig
from tests.support.tiny import GOLDEN_TRANSFORMER, golden, golden_config, golden_folder

GOLDEN = golden("arpg_tiny.golden")
CASES = golden_config("arpg_tiny")["cases"]


def off_by(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value - reference).abs().max() / reference.abs().max()).item()


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("batch_invariant", [False, True])
def test_arpg_draws_the_golden_tokens_from_the_golden_logits(
    tmp_path: Path, page_size: int, batch_invariant: bool
) -> None:
    seen: dict[int, list[StepLogits]] = defaultdict(list)
    engine = Engine.load(
        golden_folder(tmp_path / "golden"),
        device="cpu",
        config=EngineConfig(
            page_size=page_size, cache_tokens=2048, batch_invariant=batch_invariant, check_every_step=True
        ),
        watch_logits=lambda step: seen[step.id].append(step),
    )
    tokens: dict[int, list[int]] = defaultdict(lambda: [-1] * 16)
    ids: dict[str, list[int]] = {}
    busiest = 0

    def step() -> None:
        nonlocal busiest
        updates = engine.step()
        busiest = max(busiest, len(updates))
        for update in updates:
            for position, token in zip(update.positions, update.tokens, strict=True):
                tokens[update.id][position] = token

    # All cases at once, a step apart, with other requests between them.
    for number, case in enumerate(CASES):
        engine.add(Request(class_label=number, seed=number, steps=9, top_k=7, fixed_tokens={number: 3}))
        order = tuple(GOLDEN[f"{case['name']}.order"].tolist())
        ids[case["name"]] = [
            engine.add(
                Request(
                    class_label=label,
                    steps=case["num_iter"],
                    schedule=case["sample_schedule"],
                    guidance_scale=case["guidance_scale"],
                    guidance_schedule=case["cfg_schedule"],
                    temperature=0,
                    order=order,
                )
            )
            for label in case["classes"]
        ]
        step()
    while not engine.idle:
        step()
    assert busiest >= 8

    for case in CASES:
        name, members = case["name"], ids[case["name"]]
        assert [tokens[i] for i in members] == GOLDEN[f"{name}.tokens"].tolist()
        for b, member in enumerate(members):
            assert [len(s.targets) for s in seen[member]] == case["queries_per_step"]
            for index, step_logits in enumerate(seen[member]):
                reference = GOLDEN[f"{name}.logits.{index:03d}"]
                pair = reference[[b, len(members) + b]]
                assert off_by(step_logits.logits, pair) <= 1e-4, f"{name}, step {index}"


def test_teacher_forcing_gives_the_golden_logits_and_loss() -> None:
    network = ARPG(ARPGConfig(**GOLDEN_TRANSFORMER))
    network.load_state_dict(golden("arpg_tiny.weights"))
    ids, classes, orders = (GOLDEN[f"train.{name}"] for name in ("ids", "classes", "orders"))
    logits = network.teacher_forced(ids, classes, orders, (4, 4))
    assert off_by(logits, GOLDEN["train.logits"]) <= 1e-4
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.gather(1, orders).flatten())
    assert loss.item() == pytest.approx(GOLDEN["train.loss"].item(), rel=1e-4)


def test_the_first_token_is_drawn_without_knowing_where_it_goes() -> None:
    """A query that sees only the condition has one key, whatever its position; therefore a model may have a
    first_cell."""
    network = ARPG(ARPGConfig(**GOLDEN_TRANSFORMER))
    network.load_state_dict(golden("arpg_tiny.weights"))
    orders = torch.stack([torch.arange(16), torch.arange(16).roll(-9)])
    first = network.teacher_forced(torch.zeros(2, 16, dtype=torch.long), torch.tensor([3, 3]), orders, (4, 4))[:, 0]
    assert torch.allclose(first[0], first[1], atol=1e-5)


def test_the_codec_gives_the_golden_codes_and_pictures(tmp_path: Path) -> None:
    vq = golden("vq_tiny.golden")
    codec = Engine.load(golden_folder(tmp_path / "golden"), device="cpu").codec

    def pixels(name: str) -> np.ndarray:
        return vq[name].permute(0, 2, 3, 1).numpy()

    rounded = [((image + 1) * 127.5).round().astype(np.uint8) for image in pixels("image").clip(-1, 1)]
    assert np.array_equal(np.stack(codec.encode_many(rounded)), vq["codes"].numpy())
    decoded = np.stack(codec.decode_many(list(vq["codes"].numpy())))
    reference = np.clip(pixels("decoded") * 127.5 + 128, 0, 255)
    assert np.abs(decoded - reference).max() <= 1.0

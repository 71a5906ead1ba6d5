"""LlamaGen's published numbers with text, through the paged, batched path with other requests in flight."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import torch

from engine import Engine, EngineConfig, Request
from engine.core.runner import StepLogits
from engine.request import TextFeatures
from engine.text.encoder import features_of
from tests.support.tiny import golden, golden_config, golden_folder, random_text

NAME = "llamagen_t2i_tiny"
NUMBERS, SETTINGS = golden(f"{NAME}.golden"), golden_config(NAME)
ROWS, WIDTH = SETTINGS["config"]["cls_token_num"], SETTINGS["config"]["caption_dim"]


def prompts() -> list[TextFeatures]:
    """What the text encoder gives, without the rows of its padding."""
    encoded = zip(NUMBERS["caption_embs_raw"], SETTINGS["valid_tokens"], strict=True)
    return [features_of(rows[:valid].numpy()) for rows, valid in encoded]


def stranger(number: int) -> Request:
    """Another prompt, with another guidance, with a negative prompt of another length, or none of these."""
    return Request(
        prompt=random_text(number, 1 + number % ROWS, WIDTH) if number % 4 else None,
        negative_prompt=random_text(number + 100, 1 + number * 5 % ROWS, WIDTH)
        if number % 3 == 2 and number % 4
        else None,
        seed=number,
        guidance_scale=2 + number % 3,
        top_k=5,
    )


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("batch_invariant", [False, True])
def test_the_golden_tokens_are_drawn_from_the_golden_logits(
    tmp_path: Path, page_size: int, batch_invariant: bool
) -> None:
    seen: dict[int, list[torch.Tensor]] = defaultdict(list)

    def watch(step: StepLogits) -> None:
        seen[step.id].append(step.logits)

    engine = Engine.load(
        golden_folder(tmp_path / "golden", NAME),
        device="cpu",
        config=EngineConfig(
            page_size=page_size, cache_tokens=4096, batch_invariant=batch_invariant, check_every_step=True
        ),
        watch_logits=watch,
    )
    tokens: dict[int, list[int]] = defaultdict(list)
    members: dict[int, int] = {}
    busiest = 0
    arrivals = list(range(len(prompts()))) * 3  # each golden prompt three times, steps apart
    while arrivals or not engine.idle:
        if arrivals:
            row = arrivals.pop()
            engine.add(stranger(len(arrivals)))
            asked = Request(prompt=prompts()[row], guidance_scale=SETTINGS["cfg_scale"], temperature=0)
            members[engine.add(asked)] = row
        updates = engine.step()
        busiest = max(busiest, len(updates))
        for update in updates:
            assert list(update.positions) == [len(tokens[update.id])]
            tokens[update.id] += update.tokens
    assert busiest >= 8

    for member, row in members.items():
        assert tokens[member] == NUMBERS["tokens"][row].tolist()
        assert len(seen[member]) == SETTINGS["calls"]
        for index, logits in enumerate(seen[member]):
            reference = NUMBERS[f"logits.{index:03d}"][[row, len(prompts()) + row]]
            off = (logits - reference).abs().max() / reference.abs().max()
            assert off <= 1e-4, f"prompt {row}, step {index}"

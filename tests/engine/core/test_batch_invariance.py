"""In batch_invariant mode a request has bitwise the logits and tokens of its solo run (float32, CPU)."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
import torch

from engine import Engine, EngineConfig, Request
from engine.core.runner import StepLogits
from engine.models import registry
from tests.support.tiny import random_folder

GRID = (6, 6)
CODES = 256


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> registry.LoadedModel:
    folder = random_folder(
        tmp_path_factory.mktemp("model"), dim=192, n_layer=4, n_head=3, codes=CODES, num_classes=8, grid=GRID
    )
    return registry.load(folder, device=torch.device("cpu"), dtype=torch.float32)


def various(rng: random.Random) -> Request:
    """A request that differs from the others in every field."""
    positions = GRID[0] * GRID[1]
    known = rng.sample(range(positions), rng.choice([0, 0, 4, 20]))
    unknown = [p for p in range(positions) if p not in known]
    return Request(
        class_label=rng.choice([None, *range(8)]),
        seed=rng.randrange(2**32),
        steps=rng.randint(1, 36),
        schedule=rng.choice(["arccos", "cosine"]),
        guidance_scale=rng.choice([1, 2.5, 5]),
        guidance_schedule=rng.choice(["linear", "constant"]),
        content_attention=rng.choice(["blockwise", "causal"]),
        temperature=1.0,
        top_k=rng.choice([0, 0, 20]),
        top_p=rng.choice([1, 1, 0.9]),
        order=tuple(rng.sample(unknown, len(unknown))) if rng.random() < 0.3 else None,
        fixed_tokens={p: rng.randrange(CODES) for p in known},
        task=rng.choice(["generate", "inpaint"]),
    )


def drawn(
    loaded: registry.LoadedModel, requests: list[Request], rng: random.Random, *, batch_invariant: bool
) -> tuple[list[tuple[list[torch.Tensor], dict[int, int]]], int]:
    """Logits and tokens of each request, when a few arrive each step; and the largest number that shared a step."""
    logits: dict[int, list[torch.Tensor]] = defaultdict(list)
    tokens: dict[int, dict[int, int]] = defaultdict(dict)

    def watch(step: StepLogits) -> None:
        logits[step.id].append(step.logits)

    config = EngineConfig(batch_invariant=batch_invariant, cache_tokens=2048, max_rows=400, check_every_step=True)
    engine = Engine(loaded, config, device=torch.device("cpu"), watch_logits=watch)
    pending = list(requests)
    ids: list[int] = []
    most = 0
    while pending or not engine.idle:
        ids += [engine.add(pending.pop(0)) for _ in range(min(rng.randint(0, 3), len(pending)))]
        updates = engine.step()
        most = max(most, len(updates))
        for update in updates:
            tokens[update.id] |= dict(zip(update.positions, update.tokens, strict=True))
    return [(logits[i], tokens[i]) for i in ids], most


@pytest.mark.parametrize("seed", range(2))
def test_a_request_has_the_bits_of_its_solo_run(loaded: registry.LoadedModel, seed: int) -> None:
    rng = random.Random(seed)
    requests = [various(rng) for _ in range(20)]
    crowd, most = drawn(loaded, requests, rng, batch_invariant=True)
    assert most >= 8
    for request, (logits, tokens) in zip(requests, crowd, strict=True):
        [(solo_logits, solo_tokens)], _ = drawn(loaded, [request], rng, batch_invariant=True)
        assert tokens == solo_tokens
        assert len(logits) == len(solo_logits)
        assert all(torch.equal(ours, solo) for ours, solo in zip(logits, solo_logits, strict=True))


def test_without_the_mode_bits_do_differ(loaded: registry.LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the mode would have no effect, and the test above could not fail. Matrices as oneDNN packs them are
    left out: it rounds these alike at any number of rows, but does not promise to."""
    monkeypatch.setattr("engine.ops.cpu.pack_matrix", lambda weight: weight)
    rng = random.Random(0)
    requests = [various(rng) for _ in range(20)]
    crowd, _ = drawn(loaded, requests, rng, batch_invariant=False)
    solo = [drawn(loaded, [request], rng, batch_invariant=False)[0][0] for request in requests]
    pairs = [
        (ours, alone)
        for (logits, _), (solo_logits, _) in zip(crowd, solo, strict=True)
        for ours, alone in zip(logits, solo_logits, strict=True)
    ]
    assert not all(torch.equal(ours, alone) for ours, alone in pairs)
    # … but only by rounding.
    assert max((ours - alone).abs().max().item() for ours, alone in pairs) < 1e-3

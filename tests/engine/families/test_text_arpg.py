"""ARPG with a text, through the paged, batched path, against plain passes without cache or pages."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine import Engine, EngineConfig, Request
from engine.core.runner import StepLogits
from engine.models import registry
from engine.models.arpg import TextARPG
from engine.noise import permutation
from engine.request import RequestOutput
from tests.support.tiny import random_folder, random_text

TEXT_ROWS = 70
"""More than one step of a prefill writes."""

CHUNK = 16


@dataclass(frozen=True)
class Drawn:
    """The logits (branches, targets, vocab) and cells of each step of a request, and its tokens by cell."""

    logits: list[Tensor]
    cells: list[tuple[int, ...]]
    tokens: Tensor


def loaded_model(folder: Path, **sizes: Any) -> registry.LoadedModel:
    options: dict[str, Any] = {"grid": (4, 4), "n_layer": 2, "codes": 32} | sizes
    random_folder(folder, family="arpg-t2i", text_rows=TEXT_ROWS, **options)
    return registry.load(folder, device=torch.device("cpu"), dtype=torch.float32)


def draw(loaded: registry.LoadedModel, requests: list[Request], config: EngineConfig) -> list[Drawn]:
    """Requests that arrive one a step."""
    seen: dict[int, list[StepLogits]] = defaultdict(list)
    engine = Engine(loaded, config, device=torch.device("cpu"), watch_logits=lambda step: seen[step.id].append(step))
    pending, ids, updates = list(requests), [], list[RequestOutput]()
    while pending or not engine.idle:
        if pending:
            ids.append(engine.add(pending.pop(0)))
        updates += engine.step()
    drawn = []
    for number, request in zip(ids, requests, strict=True):
        rows, cols = request.grid or loaded.card.grid
        tokens = torch.full((rows * cols,), -1)
        for cell, token in request.fixed_tokens.items():
            tokens[cell] = token
        for update in updates:
            if update.id == number:
                tokens[list(update.positions)] = torch.tensor(update.tokens)
        drawn.append(Drawn([s.logits for s in seen[number]], [s.targets for s in seen[number]], tokens))
    return drawn


def plain_network(loaded: registry.LoadedModel) -> TextARPG:
    """Of float64, with the weights of the engine's; TextRows changes those of a network that an engine has."""
    network = loaded.network
    assert isinstance(network, TextARPG)
    plain = TextARPG(network.config, network.text)
    plain.load_state_dict(network.state_dict())
    return plain.double()


def texts(network: TextARPG, request: Request) -> list[Tensor]:
    """The features (rows, width) of each branch."""
    null = network.cls_embedding.uncond_embedding
    if request.prompt is None:
        return [null]
    prompt = torch.tensor(request.prompt.rows).double()
    if request.guidance_scale == 1 or request.guidance_interval == 0:
        return [prompt]
    if request.negative_prompt is not None:
        return [prompt, torch.tensor(request.negative_prompt.rows).double()]
    return [prompt, null[-len(prompt) :]]


def plain_logits(network: TextARPG, features: Tensor, request: Request, drawn: Drawn, grid: tuple[int, int]) -> Tensor:
    """The logits (tokens drawn, vocab) of one branch, with an explicit mask for each row."""
    fixed = permutation(0, "known", request.fixed_tokens)
    before = len(features) + len(fixed)
    cells = torch.tensor([*fixed, *(cell for chunk in drawn.cells for cell in chunk)])
    steps = list(pairwise(accumulate(map(len, drawn.cells), initial=before)))
    # How many content rows each row sees, the first ones.
    seen = list(range(1, len(features) + len(cells) + 1))
    if fixed and request.prefill == "block":
        seen[:before] = [before] * before
    if request.prefill == "chunked":
        for start in range(len(features), before, CHUNK):
            end = min(start + CHUNK, before)
            seen[start:end] = [end] * (end - start)
    if request.content_attention == "blockwise":
        for start, end in steps:
            seen[start:end] = [end] * (end - start)
    of_queries = [start for start, end in steps for _ in range(start, end)]

    table = network.rotary(grid, (4, 4), request.rope_scaling).double()
    rotary = table[torch.cat([torch.zeros(len(features), dtype=torch.long), cells + 1])]
    x = torch.cat([network.cls_embedding(features), network.embeddings(drawn.tokens[cells])])
    for self_layer in network.layers.self_dec:
        x = self_layer.after(x, attend(*self_layer.qkv(x, rotary), seen))
    k, v = network.layers.shared(x, rotary)
    x = network.embeddings(torch.full((sum(map(len, drawn.cells)),), network.config.mask_id))
    for layer in network.layers.cross_dec:
        x = layer.after(x, attend(layer.q(x, rotary[before:]), k, v, of_queries))
    return network.head(network.norm(x))


def attend(q: Tensor, k: Tensor, v: Tensor, seen: list[int]) -> Tensor:
    """Over (rows, heads, head_dim)."""
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    hidden = torch.arange(len(k)) >= torch.tensor(seen)[:, None]
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


def off_by(value: Tensor, reference: Tensor) -> float:
    return ((value - reference).abs().max() / reference.abs().max()).item()


@st.composite
def requests(draw: st.DrawFn) -> Request:
    some = st.builds(random_text, st.integers(0, 1), st.sampled_from([1, 2, 9, 64, 65, TEXT_ROWS]))
    prompt = draw(st.none() | some)
    scale, interval = draw(st.sampled_from([1, 1.75, 3])), draw(st.sampled_from([None, None, 0, 5]))
    guided = prompt is not None and scale != 1 and interval != 0
    grid = draw(st.sampled_from([None, None, (5, 7)]))
    cells = 35 if grid else 16
    fixed = draw(st.sets(st.integers(0, cells - 1), max_size=cells - 1)) if draw(st.booleans()) else ()
    return Request(
        prompt=prompt,
        negative_prompt=draw(st.none() | some) if guided else None,
        guidance_scale=scale,
        guidance_interval=interval,
        seed=draw(st.integers(0, 5)),
        steps=draw(st.integers(1, 20)),
        content_attention=draw(st.sampled_from(["blockwise", "causal"])),
        fixed_tokens={cell: cell * 7 % 32 for cell in fixed},
        prefill=draw(st.sampled_from(["causal", "chunked", "block"])),
        grid=grid,
        temperature=0,
    )


@st.composite
def configs(draw: st.DrawFn) -> EngineConfig:
    return EngineConfig(
        page_size=draw(st.sampled_from([1, 4, 16])),
        cache_tokens=4096,
        max_rows=draw(st.sampled_from([20, 2048])),
        max_running=draw(st.sampled_from([2, 256])),
        batch_invariant=draw(st.booleans()),
        check_every_step=True,
    )


@settings(max_examples=40)
@given(
    st.lists(requests(), min_size=1, max_size=5),
    configs(),
    st.sampled_from([(1, 4), (2, 12), (3, 20)]),
    st.integers(1, 3),
)
def test_every_step_has_the_logits_of_the_plain_pass(
    asked: list[Request], config: EngineConfig, heads: tuple[int, int], layers: int
) -> None:
    """With strangers in flight, some with the same prompt or the same fixed tokens; and the guided logits decide."""
    with TemporaryDirectory() as folder:
        loaded = loaded_model(Path(folder), dim=heads[0] * heads[1], n_head=heads[0], n_layer=2 * layers)
    network = plain_network(loaded)
    for request, drawn in zip(asked, draw(loaded, asked, config), strict=True):
        grid = request.grid or loaded.card.grid
        with torch.inference_mode():
            branches = [plain_logits(network, one, request, drawn, grid) for one in texts(network, request)]
        ours = torch.cat(drawn.logits, dim=1)
        assert off_by(ours, torch.stack(branches)) <= 1e-4
        if request.guidance_scale != 1:
            continue
        tokens = drawn.tokens[[cell for chunk in drawn.cells for cell in chunk]]
        assert torch.equal(ours[0].argmax(-1), tokens)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> registry.LoadedModel:
    return loaded_model(tmp_path_factory.mktemp("t2i"))


@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_one_token_a_step_is_the_teacher_forced_pass(model: registry.LoadedModel, page_size: int) -> None:
    """Guided and not, behind fixed tokens and without, with a negative prompt that is longer or shorter."""
    network = plain_network(model)
    fixed = {cell: cell for cell in (3, 5, 9, 15)}
    plain = Request(prompt=random_text(1, 9), steps=16, guidance_scale=3, temperature=0)
    asked = [
        plain,
        replace(plain, guidance_scale=1, seed=1),
        replace(plain, negative_prompt=random_text(2, 66), seed=2),
        replace(plain, negative_prompt=random_text(2, 1), fixed_tokens=fixed),
        Request(steps=16, seed=3, fixed_tokens=fixed),
        replace(plain, prompt=random_text(3, TEXT_ROWS), seed=4),
    ]
    config = EngineConfig(page_size=page_size, cache_tokens=4096, check_every_step=True)
    for request, drawn in zip(asked, draw(model, asked, config), strict=True):
        order = [*permutation(0, "known", request.fixed_tokens), *(cell for [cell] in drawn.cells)]
        ids, orders = drawn.tokens[None], torch.tensor([order])
        with torch.inference_mode():
            branches = [network.teacher_forced(ids, one[None], orders, (4, 4))[0] for one in texts(network, request)]
        reference = torch.stack(branches)[:, len(request.fixed_tokens) :]
        assert off_by(torch.cat(drawn.logits, dim=1), reference) <= 1e-4


@pytest.mark.parametrize("prefill", ["causal", "chunked", "block"])
def test_edits_of_one_prompt_share_its_rows(model: registry.LoadedModel, prefill: Any) -> None:
    """And those with the same fixed tokens share these, too. In a block the text sees them, so it is another."""
    config = EngineConfig(page_size=4, cache_tokens=4096, batch_invariant=True, check_every_step=True)
    plain = Request(prompt=random_text(1, 9), guidance_scale=3, steps=4, prefill=prefill)
    one, other = dict.fromkeys(range(6), 1), dict.fromkeys(range(3, 8), 2)
    asked = [plain, *(replace(plain, fixed_tokens=fixed, seed=seed) for fixed in (one, other) for seed in range(2))]
    engine = Engine(model, config, device=torch.device("cpu"))
    together = engine.generate(asked)
    of_text = 4 if prefill != "block" else 0
    writers = 2 if prefill == "block" else 0
    both = (9 + len(one)) + (9 + len(other)) if writers else len(one) + len(other)
    assert engine.stats().rows_shared_total == 2 * (9 * of_text + both)
    for request, tokens in zip(asked, together, strict=True):
        [alone] = Engine(model, config, device=torch.device("cpu")).generate([request])
        assert np.array_equal(tokens, alone)


@pytest.mark.parametrize("negative", [None, 2, 68])
@pytest.mark.parametrize("prefill", ["causal", "chunked", "block"])
def test_a_fork_goes_on_from_its_parents_rows(model: registry.LoadedModel, prefill: Any, negative: int | None) -> None:
    config = EngineConfig(page_size=4, cache_tokens=4096, batch_invariant=True, check_every_step=True)
    parent = Request(
        prompt=random_text(1, 9),
        negative_prompt=None if negative is None else random_text(2, negative),
        guidance_scale=3,
        steps=6,
        fixed_tokens=dict.fromkeys(range(5), 3),
        prefill=prefill,
        seed=1,
    )
    engine = Engine(model, config, device=torch.device("cpu"))
    [whole] = engine.generate([parent])
    fork = engine.fork(parent, dict(enumerate(whole.ravel().tolist())), step=3, seed=9)
    [again] = engine.generate([replace(fork, seed=1)])
    assert np.array_equal(again, whole), "the rebuilt rows are the parent's"
    [alone] = engine.generate([fork])
    assert not np.array_equal(alone, whole)
    engine.add(parent)
    for _ in range(5):
        engine.step()
    [live] = engine.generate([fork])
    assert np.array_equal(live, alone)
    assert engine.stats().rows_shared_total > 0


def test_a_model_with_a_first_cell_draws_it_first(tmp_path: Path) -> None:
    folder = random_folder(tmp_path / "m", family="arpg-t2i", grid=(4, 4))
    description = json.loads((folder / "model.json").read_text()) | {"first_cell": 9}
    (folder / "model.json").write_text(json.dumps(description))
    engine = Engine.load(folder, device="cpu")
    for grid, cell in ((None, 9), ((8, 8), 4 * 8 + 2)):
        engine.add(Request(prompt=random_text(1, 5), steps=4, grid=grid))
        assert engine.step()[-1].positions == (cell,)

"""The families of LlamaGen's kind at any size, against a plain forward pass written here: the whole sequence, an
explicit mask."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from engine import Engine, EngineConfig, Request
from engine.core.runner import StepLogits
from engine.request import TextFeatures
from tests.support.tiny import random_folder, random_text

CLASSES = 4
TEXT_ROWS = 12


@dataclass(frozen=True)
class Sequence:
    """The rows of a family for a whole token map, in order: embeddings, the cell of each row (-1: none), its block,
    and the cell that its logits decide (-1: none)."""

    embeddings: torch.Tensor
    cells: torch.Tensor
    blocks: torch.Tensor
    targets: torch.Tensor


def raster(state: dict[str, torch.Tensor], tokens: torch.Tensor, label: int) -> Sequence:
    cells = torch.arange(len(tokens))
    embeddings = [state["cls_embedding.embedding_table.weight"][[label]], state["tok_embeddings.weight"][tokens[:-1]]]
    return Sequence(torch.cat(embeddings), cells - 1, cells, cells)


def behind_text(state: dict[str, torch.Tensor], tokens: torch.Tensor, features: torch.Tensor) -> Sequence:
    hidden = features.double() @ state["cls_embedding.cap_proj.fc1.weight"].T
    text = torch.nn.functional.gelu(hidden, approximate="tanh") @ state["cls_embedding.cap_proj.fc2.weight"].T
    index = torch.arange(len(text) + len(tokens) - 1)
    cells = (index - len(text)).clamp(min=-1)
    targets = (index - len(text) + 1).clamp(min=-1)
    return Sequence(torch.cat([text, state["tok_embeddings.weight"][tokens[:-1]]]), cells, index, targets)


def side_by_side(
    state: dict[str, torch.Tensor], tokens: torch.Tensor, label: int, grid: tuple[int, int], regions: int
) -> Sequence:
    side = round(regions**0.5)
    cells = torch.arange(len(tokens)).view(side, grid[0] // side, side, grid[1] // side).permute(1, 3, 0, 2).flatten()
    fed = cells[:regions] if len(cells) > regions else cells[: regions - 1]
    drawn = state["tok_embeddings.weight"][tokens]
    nowhere = -torch.ones(1, dtype=torch.long)
    rows = [state["cls_embedding.embedding_table.weight"][[label]], drawn[fed]]
    places = [nowhere, fed]
    if len(cells) > regions:
        rows += [state["spe_tok_embeddings.special_embeddings.weight"], drawn[cells[regions:-regions]]]
        places += [nowhere.expand(regions - 1), cells[regions:-regions]]
    index = torch.arange(len(cells))
    blocks = torch.where(index < regions, index, regions - 1 + index // regions)
    return Sequence(torch.cat(rows), torch.cat(places), blocks, cells)


def plain_logits(
    state: dict[str, torch.Tensor], sequence: Sequence, grid: tuple[int, int], heads: int
) -> dict[int, torch.Tensor]:
    """Logits by the cell that they decide."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"]

    def turned(x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turns).flatten(-2)

    x = sequence.embeddings
    quarter = x.shape[-1] // heads // 4
    frequencies = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, cols = sequence.cells // grid[1], sequence.cells % grid[1]
    angles = torch.cat([rows[:, None] * frequencies, cols[:, None] * frequencies], dim=-1)
    turns = torch.polar((sequence.cells >= 0).double()[:, None].expand_as(angles), angles)
    mask = sequence.blocks[:, None] >= sequence.blocks
    for layer in range(sum(name.endswith("wo.weight") for name in state)):
        own = f"layers.{layer}."
        h = norm(x, f"{own}attention_norm") @ state[f"{own}attention.wqkv.weight"].T
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in h.chunk(3, dim=-1))
        scores = turned(q) @ turned(k).transpose(-1, -2) / q.shape[-1] ** 0.5
        attended = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v
        x = x + attended.transpose(0, 1).flatten(-2) @ state[f"{own}attention.wo.weight"].T
        h = norm(x, f"{own}ffn_norm")
        w1, w2, w3 = (state[f"{own}feed_forward.w{i}.weight"].T for i in (1, 2, 3))
        x = x + (torch.nn.functional.silu(h @ w1) * (h @ w3)) @ w2
    logits = norm(x, "norm") @ state["output.weight"].T
    wanted = sequence.targets >= 0
    return dict(zip(sequence.targets[wanted].tolist(), logits[wanted], strict=True))


@dataclass(frozen=True)
class Case:
    family: str
    grid: tuple[int, int]
    regions: int
    heads: int
    head_dim: int
    layers: int
    config: EngineConfig
    requests: tuple[Request, ...]


def text(features: TextFeatures) -> torch.Tensor:
    return torch.tensor(features.rows)


def sequences(
    case: Case, state: dict[str, torch.Tensor], tokens: torch.Tensor, request: Request, guided: bool
) -> list[Sequence]:
    """Of each branch."""
    if case.family == "llamagen-t2i":
        null = state["cls_embedding.uncond_embedding"]
        if request.prompt is None:
            return [behind_text(state, tokens, null)]
        conditional = behind_text(state, tokens, text(request.prompt))
        if not guided:
            return [conditional]
        if request.negative_prompt is not None:
            return [conditional, behind_text(state, tokens, text(request.negative_prompt))]
        return [conditional, behind_text(state, tokens, null[-len(request.prompt.rows) :])]
    label = CLASSES if request.class_label is None else request.class_label
    labels = (label, CLASSES) if guided else (label,)
    if case.family == "par":
        return [side_by_side(state, tokens, branch, case.grid, case.regions) for branch in labels]
    return [raster(state, tokens, branch) for branch in labels]


@st.composite
def texts(draw: st.DrawFn) -> dict[str, Any]:
    """A few prompts, so that some requests share one."""
    some = st.builds(random_text, st.integers(0, 1), st.sampled_from([1, 2, 7, TEXT_ROWS]))
    fields: dict[str, Any] = {"prompt": draw(st.none() | some)}
    if fields["prompt"] is not None:
        fields["negative_prompt"] = draw(st.none() | some)
    return fields


@st.composite
def requests(draw: st.DrawFn, family: str) -> Request:
    fields: dict[str, Any] = {
        "guidance_scale": draw(st.sampled_from([1, 1.75, 3])),
        "guidance_interval": draw(st.sampled_from([None, None, 0, 1, 5, 20])),
    }
    if family == "llamagen-t2i":
        fields |= draw(texts())
    else:
        fields["class_label"] = draw(st.none() | st.integers(0, CLASSES - 1))
    if fields["guidance_scale"] == 1 or fields["guidance_interval"] == 0:
        fields.pop("negative_prompt", None)
    return Request(**fields, temperature=0)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    family = draw(st.sampled_from(["llamagen", "llamagen-t2i", "llamagen-t2i", "par", "par"]))
    regions = draw(st.sampled_from([4, 9, 16])) if family == "par" else 1
    side = round(regions**0.5)
    rows, cols = draw(st.integers(1, 12 // side)), draw(st.integers(1, 8 // side))
    return Case(
        family,
        (rows * side, cols * side),
        regions,
        heads=draw(st.integers(1, 3)),
        head_dim=draw(st.sampled_from([4, 12, 16, 20, 100])),
        layers=draw(st.integers(1, 3)),
        config=EngineConfig(
            page_size=draw(st.sampled_from([1, 4, 16])),
            cache_tokens=2048,
            max_rows=draw(st.sampled_from([20, 2048])),
            batch_invariant=draw(st.booleans()),
            check_every_step=True,
        ),
        requests=tuple(draw(st.lists(requests(family), min_size=1, max_size=5))),
    )


@settings(max_examples=40)
@given(cases())
def test_every_step_has_the_logits_of_the_plain_forward_pass(case: Case) -> None:
    """For any grid, regions, sizes and other requests; and the guided logits decide the token."""
    logits: dict[int, list[torch.Tensor]] = defaultdict(list)
    drawn: dict[int, dict[int, int]] = defaultdict(dict)

    def watch(step: StepLogits) -> None:
        logits[step.id].append(step.logits)

    with TemporaryDirectory() as folder:
        random_folder(
            Path(folder),
            family=case.family,
            grid=case.grid,
            regions=case.regions,
            dim=case.heads * case.head_dim,
            n_head=case.heads,
            n_layer=case.layers,
            num_classes=CLASSES,
            text_rows=TEXT_ROWS,
        )
        state = {k: v.double() for k, v in load_file(Path(folder) / f"{case.family}.safetensors").items()}
        engine = Engine.load(folder, device="cpu", config=case.config, watch_logits=watch)
    pending, ids = list(case.requests), []
    while pending or not engine.idle:
        if pending:
            ids.append(engine.add(pending.pop()))
        for update in engine.step():
            drawn[update.id] |= dict(zip(update.positions, update.tokens, strict=True))

    for number, request in zip(ids, reversed(case.requests), strict=True):
        tokens = torch.tensor([drawn[number][cell] for cell in range(engine.model.positions)])
        conditional = request.class_label is not None or request.prompt is not None
        guided = conditional and request.guidance_scale != 1 and request.guidance_interval != 0
        rows = sequences(case, state, tokens, request, guided)
        references = [plain_logits(state, sequence, case.grid, case.heads) for sequence in rows]
        order = list(references[0])
        assert list(drawn[number]) == order
        ours = torch.cat(logits[number], dim=1)
        reference = torch.stack([torch.stack([one[cell] for cell in order]) for one in references])
        assert (ours - reference).abs().max() <= 1e-4 * reference.abs().max()

        begun = 0  # tokens drawn when the step began
        for step in logits[number]:
            always = request.guidance_interval is None or begun < request.guidance_interval
            scale = request.guidance_scale if guided and always else 1
            decided = (step[-1] + (step[0] - step[-1]) * scale).argmax(-1)
            assert decided.tolist() == tokens[order[begun : begun + len(decided)]].tolist()
            begun += len(decided)

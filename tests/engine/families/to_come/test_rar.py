"""RAR: a row knows its own position and the next, and its branch's condition scales and shifts it in every layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.attention.batch import Rows
from engine.attention.kv_cache import KVCache
from engine.core.sequence import SequenceState
from engine.plans import CONDITION, Condition, Plan, Row, Step, token_at
from engine.request import Request
from tests.engine.families.to_come.toy import CELLS, DIM, NO_ROTATION, VOCAB, Drawing, Toy, causal

START = VOCAB
"""Embedding id of the row that stands before the condition."""
CLASS = START + 1
NULL = CLASS + 4


class RAR(Toy):
    """Row r has the position r, and the target position r + 1."""

    def __init__(self) -> None:
        super().__init__(specials=6, rotary=NO_ROTATION)
        self.positions, self.targets = self.weight(1 + CELLS, DIM), self.weight(2 + CELLS, DIM)
        self.targets[1] = 0  # the first row has none
        self.times = self.weight(1 + CELLS, DIM)
        self.modulations = [self.weight(6 * DIM, DIM) / 4 for _ in self.layers]
        self.last_modulation = self.weight(2 * DIM, DIM) / 4

    def cached(self, rows: Rows, cache: KVCache) -> Tensor:
        operations, starts = self.operations, rows.attention.starts
        assert rows.conditions is not None
        branch = torch.searchsorted(starts[1:], torch.arange(len(rows), dtype=torch.int32), right=True)
        embedded = operations.embed(rows, cache.tokens, self.embeddings)
        return self.through(
            embedded,
            rows.conditions[branch],
            rows.positions,
            lambda qkv, layer: operations.self_attention(qkv, rows, cache, layer),
        )

    def through(
        self, x: Tensor, conditions: Tensor, positions: Tensor, attend: Callable[[Tensor, int], Tensor]
    ) -> Tensor:
        x = x + self.positions[positions] + self.targets[positions + 1]
        condition = F.silu(self.embeddings[conditions] + self.times[positions])
        for index, layer in enumerate(self.layers):
            shift, scale, gate, shift2, scale2, gate2 = F.linear(condition, self.modulations[index]).chunk(6, dim=-1)
            qkv = F.linear(F.layer_norm(x, (DIM,)) * (1 + scale) + shift, layer.projection)
            x = x + gate * F.linear(attend(qkv, index), layer.output)
            wide = F.linear(F.layer_norm(x, (DIM,)) * (1 + scale2) + shift2, layer.gate_up[: 2 * DIM])
            x = x + gate2 * F.linear(F.gelu(wide), layer.down)
        scale, shift = F.linear(condition, self.last_modulation).chunk(2, dim=-1)
        return F.layer_norm(x, (DIM,)) * (1 + scale) + shift


def scale(cell: int) -> float:
    return float(1 + 3 * (1 - torch.cos(torch.tensor(torch.pi * cell / CELLS))) / 2)


def plan_rar(request: Request) -> Plan:
    first = (Row(START, 0, 1, True), Row(CONDITION, 1, 2, True, 0))
    later = [(Row(token_at(cell - 1), cell + 1, cell + 2, True, cell),) for cell in range(1, CELLS)]
    steps = (Step(rows, scale(cell)) for cell, rows in enumerate((first, *later)))
    label = request.class_label or 0
    return Plan(tuple(steps), (Condition(CLASS + label), Condition(NULL)), cached_rows=1 + CELLS)


def expected(toy: RAR, sequence: SequenceState) -> dict[int, Tensor]:
    positions, branches = torch.arange(1 + CELLS), []
    for condition in sequence.condition_ids:
        sources = torch.tensor([START, condition, *sequence.tokens.tolist()[:-1]])
        x = toy.through(
            toy.embeddings[sources],
            torch.full((1 + CELLS,), condition),
            positions,
            lambda qkv, _: toy.attend(qkv, positions, causal(1 + CELLS)),
        )
        branches.append(F.linear(x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * toy.norm, toy.head)[1:])
    return dict(enumerate(torch.stack(branches, dim=1)))


def test_each_branch_is_modulated_by_its_own_condition() -> None:
    toy = RAR()
    drawing = Drawing(toy, NO_ROTATION, max_rows=9)  # four of five sequences at a time
    requests = [Request(class_label=label % 4, seed=label, temperature=0) for label in range(5)]
    drawn = [drawing.add(plan_rar(request), request) for request in requests]
    drawing.finish()
    assert len({tuple(sequence.tokens) for sequence in drawn}) > 1
    for sequence in drawn:
        drawing.check(sequence, expected(toy, sequence), scale)

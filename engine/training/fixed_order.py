"""The training pass of families that draw in a fixed order: their row program, teacher-forced in one pass.

All rows of the plan go through the model at once; which of them a row sees is the plan's `visible`, as in the engine.
Written for training speed, like `engine.training.forward`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models.llamagen import LlamaGen
from engine.plans import CONDITION, Plan, cell_of
from engine.training.forward import attend, rotation_table, turned


class FixedOrder:
    """Logits of a LlamaGen or PAR for the rows of its plan; all of a plan's rows are cached and have a target."""

    def __init__(self, network: LlamaGen, plan: Plan, grid: tuple[int, int]) -> None:
        rows = [row for step in plan.steps for row in step.rows]
        cells = grid[0] * grid[1]
        specials = sorted({row.source for row in rows if row.source >= 0})
        columns = {CONDITION: cells} | {source: cells + 1 + index for index, source in enumerate(specials)}
        visible = torch.tensor([row.visible for row in rows])
        hidden = torch.arange(len(rows)) >= visible[:, None]
        self._tables = (
            torch.tensor([columns.get(row.source, cell_of(row.source)) for row in rows]),
            torch.tensor(specials, dtype=torch.int64),
            torch.tensor([row.target for row in rows]),
            rotation_table(network, grid)[:, [row.position for row in rows]].unsqueeze(-2),
            torch.zeros(hidden.shape).masked_fill(hidden, float("-inf")),
        )

    def __call__(self, network: LlamaGen, ids: Tensor, classes: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 (B, rows, vocab_size) and the tokens (B, rows) that they predict, of row-major ids (B, cells)
        and labels (B,) with num_classes for the null class. The order is the plan's: orders are ignored."""
        columns, specials, targets, turn, hidden = (t.to(ids.device) for t in self._tables)
        conditions = network.config.vocab_size + classes[:, None]
        sources = torch.cat([ids, conditions, specials.expand(len(ids), -1)], dim=1)[:, columns]
        x = network.embed(sources.flatten()).unflatten(0, sources.shape)
        turn, heads = turn.to(x.dtype), network.config.n_head
        for layer in network.layers:
            normed = layer.attention_norm(x)
            to_q, to_k, to_v = layer.attention.wqkv.weight.chunk(3)
            q, k = (turned(normed, weight, heads, turn) for weight in (to_q, to_k))
            v = F.linear(normed, to_v).unflatten(-1, (heads, -1))
            x = layer.after(x, attend(q, k, v, hidden))
        return network.output(network.norm(x)).float(), ids[:, targets]

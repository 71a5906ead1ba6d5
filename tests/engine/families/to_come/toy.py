"""Tiny random networks, drawn by the real scheduler, packer, cache, attention and sampler, for families that the engine
does not have yet; and a plain forward pass of the same weights without cache or pages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.attention.batch import Batch, Rows
from engine.attention.kv_cache import KVCache, KVShape
from engine.core.dispatched import DispatchedStep
from engine.core.packing import PackedStep
from engine.core.pages import PageAllocator
from engine.core.rotary_tables import RotaryTables
from engine.core.runner import Runner, StepLogits
from engine.core.scheduler import Scheduler
from engine.core.sequence import SequenceState
from engine.models.forward import ForwardPass
from engine.ops.choice import choose_operations
from engine.ops.functions import rms_norm, rotate
from engine.ops.operations import LayerWeights
from engine.plans import Plan
from engine.request import Request

GRID = (4, 4)
CELLS = GRID[0] * GRID[1]
VOCAB = 24
DIM, HEADS, LAYERS = 32, 4, 2
PAGE = 4

NO_ROTATION = torch.tensor([1.0, 0.0]).expand(1 + CELLS, DIM // HEADS // 2, 2).contiguous()
"""The rotary table of families without rotary embedding: queries and keys stay as they are."""


class Toy(ForwardPass):
    """Embedding ids 0 … VOCAB - 1 are the image tokens; `specials` more follow. rotary (1 + CELLS, head_dim / 2, 2)."""

    draws_from_queries = False

    def __init__(self, specials: int, rotary: Tensor, seed: int = 0) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.rotary = rotary
        self.operations = choose_operations(torch.device("cpu"), torch.float32, batch_invariant=False)
        self.embeddings = self.weight(VOCAB + specials, DIM)
        self.norm, self.head = 1 + self.weight(DIM), self.weight(VOCAB, DIM)
        self.layers = [
            LayerWeights(
                norm=1 + self.weight(DIM),
                projection=self.weight(3 * DIM, DIM),
                output=self.weight(DIM, DIM),
                feed_forward_norm=1 + self.weight(DIM),
                gate_up=self.weight(4 * DIM, DIM),
                down=self.weight(DIM, 2 * DIM),
            )
            for _ in range(LAYERS)
        ]

    def weight(self, *size: int) -> Tensor:
        return torch.randn(size, generator=self.random) * (1.0 if len(size) == 2 else 0.1) / size[-1] ** 0.25

    def inputs(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """What enters the first layer (rows, dim). positions: Row.position."""
        return embedded

    def cached(self, rows: Rows, cache: KVCache) -> Tensor:
        operations = self.operations
        x = self.inputs(operations.embed(rows, cache.tokens, self.embeddings), rows.positions)
        for index, layer in enumerate(self.layers):
            qkv = operations.norm_linear(x, layer.norm, layer.projection)
            x = operations.finish_layer(x, operations.self_attention(qkv, rows, cache, index), layer)
        return x

    def queries(self, rows: Rows, cache: KVCache) -> Tensor:
        raise TypeError("all rows of this family are cached")

    def plain(self, sources: Sequence[int], positions: Sequence[int], visible: Tensor) -> Tensor:
        """Logits (rows, VOCAB) of one branch. sources: embedding ids. visible (rows, rows): which rows each sees."""
        index = torch.tensor(positions)
        x = self.inputs(self.embeddings[torch.tensor(sources)], index)
        for layer in self.layers:
            qkv = F.linear(rms_norm(x, layer.norm), layer.projection)
            x = x + F.linear(self.attend(qkv, index, visible), layer.output)
            gate, up = F.linear(rms_norm(x, layer.feed_forward_norm), layer.gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        return F.linear(rms_norm(x, self.norm), self.head)

    def attend(self, qkv: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in qkv.chunk(3, dim=-1))
        q, k = (rotate(part, self.rotary[positions]).transpose(0, 1) for part in (q, k))
        return F.scaled_dot_product_attention(q, k, v.transpose(0, 1), attn_mask=visible).transpose(0, 1).flatten(1)


def causal(rows: int) -> Tensor:
    return torch.ones(rows, rows, dtype=torch.bool).tril()


class ToyRunner(Runner):
    """Also hands the forward pass the condition of each branch."""

    def batch(self, step: PackedStep) -> Batch:
        conditions = torch.from_numpy(step.conditions)
        batch = super().batch(step)
        return Batch(*(replace(rows, conditions=conditions) for rows in (batch.cached, batch.queries)))


class Drawing:
    """Draws requests as an Engine does. logits: of each sequence by cell, (branches, VOCAB), before guidance."""

    def __init__(self, forward: ForwardPass, rotary: Tensor, *, max_rows: int = 48) -> None:
        shape = KVShape(LAYERS, HEADS, DIM // HEADS)
        cache = KVCache(shape, 96, PAGE, device=torch.device("cpu"), dtype=torch.float32)
        tables = RotaryTables(lambda *key: rotary, (GRID, Request().rope_scaling))
        operations = choose_operations(torch.device("cpu"), torch.float32, batch_invariant=False)
        self.runner = ToyRunner(forward, operations, cache, tables, watch_logits=self._watch)
        self.scheduler = Scheduler(PageAllocator(96), page_size=PAGE, max_rows=max_rows)
        self.logits: dict[int, dict[int, Tensor]] = defaultdict(dict)
        self._count = 0

    def add(self, plan: Plan, request: Request) -> SequenceState:
        sequence = SequenceState.begin(self._count, request, plan, GRID)
        self._count += 1
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> None:
        sequences = self.scheduler.schedule()
        self.runner.copy_pages(self.scheduler.page_copies)
        self.scheduler.page_copies.clear()
        drawn = self.runner.run(sequences)
        DispatchedStep(sequences, [sequence.dispatch() for sequence in sequences], drawn).commit()
        for sequence in sequences:
            if sequence.finished:
                self.scheduler.retire(sequence)
        self.scheduler.check_integrity()

    def finish(self) -> None:
        while not self.scheduler.idle:
            self.step()

    def check(
        self, sequence: SequenceState, expected: Mapping[int, Tensor], scale: Callable[[int], float] | None = None
    ) -> None:
        """That the logits are the expected ones. scale: the guidance of a cell; the sequence then has temperature 0,
        and its tokens are those of the guided logits."""
        assert (sequence.tokens >= 0).all()
        assert sequence.cached == sequence.plan.cached_rows
        for cell, logits in self.logits[sequence.id].items():
            torch.testing.assert_close(logits, expected[cell], atol=1e-4, rtol=1e-4)
            if scale is not None:
                guided = expected[cell][-1] + scale(cell) * (expected[cell][0] - expected[cell][-1])
                assert guided.argmax() == sequence.tokens[cell]

    def _watch(self, step: StepLogits) -> None:
        self.logits[step.id] |= zip(step.targets, step.logits.unbind(1), strict=True)

"""Packs the rows of everybody's step into one ragged batch, runs the model, samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor

from engine.attention.batch import Batch, Rows
from engine.attention.kv_cache import KVCache
from engine.attention.paged import attention_meta
from engine.core.rotary_tables import RotaryTables
from engine.core.sampling import NO_TOKEN, SamplingParams, guide, sample
from engine.core.sequence import Drawing
from engine.models.network import Model
from engine.noise import uniform
from engine.plans import CONDITION, NOTHING, Row, cell_of

ROW_TILE = 32


@dataclass(frozen=True, slots=True)
class StepLogits:
    """Raw logits of one drawing's step, before guidance: float32 (branches, targets, vocab), the conditional
    branch first; targets are canvas cells."""

    id: int
    targets: tuple[int, ...]
    logits: Tensor


class Runner:
    """batch_invariant: fixed row tiles, so that a request's bits don't depend on its neighbours (CPU, float32).
    watch_logits: called with every drawing's raw logits, for tests and measurements."""

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        rotary: RotaryTables,
        *,
        page_size: int,
        batch_invariant: bool = False,
        watch_logits: Callable[[StepLogits], None] | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.rotary = rotary
        self.page_size = page_size
        self.tile = ROW_TILE if batch_invariant else None
        self.watch_logits = watch_logits
        self.device = cache.keys.device

    @torch.inference_mode()
    def run(self, drawings: Sequence[Drawing]) -> list[list[int]]:
        """One forward pass; the tokens that each drawing's step decides, in the order of its targets.

        Raises FloatingPointError when the model gives NaN or infinity.
        """
        logits = self.model(self.pack(drawings), self.cache)
        pairs = _branch_pairs(drawings)
        if not pairs:
            return [[] for _ in drawings]
        if self.watch_logits:
            self._show(drawings, logits)
        conditional, unconditional = torch.tensor(pairs, device=self.device).unbind(-1)
        guided = guide(logits[conditional], logits[unconditional], self._floats(_guidance(drawings)))
        tokens = sample(guided, self._sampling_params(drawings)).tolist()
        if NO_TOKEN in tokens:
            raise FloatingPointError("the model's logits are not finite")
        drawn = iter(tokens)
        return [list(islice(drawn, len(drawing.step.targets))) for drawing in drawings]

    def pack(self, drawings: Sequence[Drawing]) -> Batch:
        """Rows of all branches: every branch is a sequence, drawing after drawing."""
        sequences = [
            _Sequence(drawing, condition, table)
            for drawing in drawings
            for condition, table in zip(drawing.plan.conditions, drawing.tables, strict=True)
        ]
        cached = [[row for row in sequence.rows if row.cached] for sequence in sequences]
        queries = [[row for row in sequence.rows if not row.cached] for sequence in sequences]
        wanted = [index for index, row in enumerate(chain(*cached)) if row.target != NOTHING]
        return Batch(
            cached=self._rows(sequences, cached, self._slots(sequences, cached)),
            queries=self._rows(sequences, queries, []),
            answers=self._ints(wanted),
        )

    def _rows(self, sequences: list[_Sequence], rows: list[list[Row]], slots: list[int]) -> Rows:
        tokens = [s.embedding_id(row) for s, own in zip(sequences, rows, strict=True) for row in own]
        meta = attention_meta(
            [[row.visible for row in own] for own in rows],
            [sequence.table for sequence in sequences],
            self.page_size,
            self.device,
        )
        table, starts = self.rotary.of([sequence.drawing.canvas for sequence in sequences])
        positions = [start + row.position for start, own in zip(starts, rows, strict=True) for row in own]
        rotary = table[self._ints(positions)]
        return Rows(self._ints(tokens), rotary, self._ints(slots), meta, self.tile)

    def _slots(self, sequences: list[_Sequence], rows: list[list[Row]]) -> list[int]:
        return [
            sequence.slot(sequence.drawing.cached + offset, self.page_size)
            for sequence, own in zip(sequences, rows, strict=True)
            for offset in range(len(own))
        ]

    def _sampling_params(self, drawings: Sequence[Drawing]) -> SamplingParams:
        requests = [drawing.request for drawing in drawings for _ in drawing.step.targets]
        places = [drawing.place(cell) for drawing in drawings for cell in drawing.step.targets]
        return SamplingParams(
            temperature=self._floats([r.temperature for r in requests]),
            top_k=self._ints([r.top_k for r in requests]),
            top_p=self._floats([r.top_p for r in requests]),
            uniform=torch.tensor(
                [uniform(r.seed, r.task, place) for r, place in zip(requests, places, strict=True)],
                dtype=torch.float64,
                device=self.device,
            ),
        )

    def _show(self, drawings: Sequence[Drawing], logits: Tensor) -> None:
        assert self.watch_logits is not None
        start = 0
        for drawing in drawings:
            targets = drawing.step.targets
            end = start + len(targets) * drawing.plan.branches
            if targets:
                own = logits[start:end].unflatten(0, (drawing.plan.branches, len(targets)))
                self.watch_logits(StepLogits(drawing.id, targets, own.clone()))
            start = end

    def _ints(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def _floats(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)


@dataclass(frozen=True, slots=True)
class _Sequence:
    """One branch of one drawing."""

    drawing: Drawing
    condition: int
    table: list[int]

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.drawing.step.rows

    def embedding_id(self, row: Row) -> int:
        if row.source >= 0:
            return row.source
        return self.condition if row.source == CONDITION else self.drawing.tokens[cell_of(row.source)]

    def slot(self, index: int, page_size: int) -> int:
        page, offset = divmod(index, page_size)
        return self.table[page] * page_size + offset


def _branch_pairs(drawings: Sequence[Drawing]) -> list[tuple[int, int]]:
    """Logit rows of the conditional and of the unconditional branch, a pair a token; without an unconditional
    branch both are the same row, and guidance changes nothing."""
    pairs = []
    start = 0
    for drawing in drawings:
        count = len(drawing.step.targets)
        last = start + count * (drawing.plan.branches - 1)
        pairs += [(start + i, last + i) for i in range(count)]
        start += count * drawing.plan.branches
    return pairs


def _guidance(drawings: Sequence[Drawing]) -> list[float]:
    return [drawing.step.guidance for drawing in drawings for _ in drawing.step.targets]

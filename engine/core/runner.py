"""Packs the rows of all sequences into one ragged batch, runs the model and samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor

from engine.attention.batch import Batch, Rows
from engine.attention.kv_cache import KVCache
from engine.attention.metadata import attention_meta
from engine.core.guidance import guide
from engine.core.rotary_tables import RotaryTables
from engine.core.sampling import NO_TOKEN, SamplingTensors, sample
from engine.core.sequence import SequenceState
from engine.models.network import Model
from engine.noise import uniform
from engine.plans import CONDITION, NO_TARGET, Row, cell_of

ROW_TILE = 32


@dataclass(frozen=True, slots=True)
class StepLogits:
    """Raw logits of one sequence's step, before guidance: float32 (branches, targets, vocab), the conditional branch
    first. targets: grid cells."""

    id: int
    targets: tuple[int, ...]
    logits: Tensor


class Runner:
    """batch_invariant: compute in fixed row tiles, so that a request's bits don't depend on other requests (CPU,
    float32). watch_logits: called with the raw logits of every sequence and step, for tests and measurements."""

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
    def run(self, sequences: Sequence[SequenceState]) -> list[list[int]]:
        """One forward pass. Returns the tokens that each sequence's step draws, in the order of its targets.

        Raises FloatingPointError when the model's logits hold NaN or infinity.
        """
        logits = self.model(self.pack(sequences), self.cache)
        pairs = _branch_pairs(sequences)
        if not pairs:
            return [[] for _ in sequences]
        if self.watch_logits:
            self._show(sequences, logits)
        conditional, unconditional = torch.tensor(pairs, device=self.device).unbind(-1)
        guided = guide(logits[conditional], logits[unconditional], self._floats(_guidance(sequences)))
        tokens = sample(guided, self._sampling_tensors(sequences)).tolist()
        if NO_TOKEN in tokens:
            raise FloatingPointError("the model's logits are not finite")
        drawn = iter(tokens)
        return [list(islice(drawn, len(sequence.step.targets))) for sequence in sequences]

    def pack(self, sequences: Sequence[SequenceState]) -> Batch:
        """The rows of all branches, sequence after sequence."""
        branches = [
            _Branch(sequence, condition, table)
            for sequence in sequences
            for condition, table in zip(sequence.plan.conditions, sequence.block_tables, strict=True)
        ]
        cached = [[row for row in branch.rows if row.cached] for branch in branches]
        queries = [[row for row in branch.rows if not row.cached] for branch in branches]
        wanted = [index for index, row in enumerate(chain(*cached)) if row.target != NO_TARGET]
        return Batch(
            cached=self._rows(branches, cached, self._slots(branches, cached)),
            queries=self._rows(branches, queries, []),
            logits_indices=self._ints(wanted),
        )

    def _rows(self, branches: list[_Branch], rows: list[list[Row]], slots: list[int]) -> Rows:
        tokens = [branch.embedding_id(row) for branch, own in zip(branches, rows, strict=True) for row in own]
        meta = attention_meta(
            [[row.visible for row in own] for own in rows],
            [branch.table for branch in branches],
            self.page_size,
            self.device,
        )
        table, starts = self.rotary.of([branch.sequence.rotary_key for branch in branches])
        positions = [start + row.position for start, own in zip(starts, rows, strict=True) for row in own]
        rotary = table[self._ints(positions)]
        return Rows(self._ints(tokens), rotary, self._ints(slots), meta, self.tile)

    def _slots(self, branches: list[_Branch], rows: list[list[Row]]) -> list[int]:
        return [
            branch.slot(branch.sequence.cached + offset, self.page_size)
            for branch, own in zip(branches, rows, strict=True)
            for offset in range(len(own))
        ]

    def _sampling_tensors(self, sequences: Sequence[SequenceState]) -> SamplingTensors:
        requests = [sequence.request for sequence in sequences for _ in sequence.step.targets]
        positions = [sequence.canvas_position(cell) for sequence in sequences for cell in sequence.step.targets]
        return SamplingTensors(
            temperature=self._floats([r.temperature for r in requests]),
            top_k=self._ints([r.top_k for r in requests]),
            top_p=self._floats([r.top_p for r in requests]),
            uniform=torch.tensor(
                [
                    uniform(r.seed, r.task, canvas_position)
                    for r, canvas_position in zip(requests, positions, strict=True)
                ],
                dtype=torch.float64,
                device=self.device,
            ),
        )

    def _show(self, sequences: Sequence[SequenceState], logits: Tensor) -> None:
        assert self.watch_logits is not None
        start = 0
        for sequence in sequences:
            targets = sequence.step.targets
            end = start + len(targets) * sequence.plan.branches
            if targets:
                own = logits[start:end].unflatten(0, (sequence.plan.branches, len(targets)))
                self.watch_logits(StepLogits(sequence.id, targets, own.clone()))
            start = end

    def _ints(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def _floats(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)


@dataclass(frozen=True, slots=True)
class _Branch:
    """One branch of one sequence."""

    sequence: SequenceState
    condition: int
    table: list[int]

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.sequence.step.rows

    def embedding_id(self, row: Row) -> int:
        if row.source >= 0:
            return row.source
        return self.condition if row.source == CONDITION else self.sequence.tokens[cell_of(row.source)]

    def slot(self, index: int, page_size: int) -> int:
        page, offset = divmod(index, page_size)
        return self.table[page] * page_size + offset


def _branch_pairs(sequences: Sequence[SequenceState]) -> list[tuple[int, int]]:
    """For each token to draw, its logit rows in the conditional and in the unconditional branch. Without an
    unconditional branch both are the same row, and guidance changes nothing."""
    pairs = []
    start = 0
    for sequence in sequences:
        count = len(sequence.step.targets)
        last = start + count * (sequence.plan.branches - 1)
        pairs += [(start + i, last + i) for i in range(count)]
        start += count * sequence.plan.branches
    return pairs


def _guidance(sequences: Sequence[SequenceState]) -> list[float]:
    return [sequence.step.guidance for sequence in sequences for _ in sequence.step.targets]

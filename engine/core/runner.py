"""Runs a step: packs it, computes the hidden rows and the logits, and draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from engine.attention.batch import Batch, Rows
from engine.attention.kv_cache import KVCache
from engine.attention.metadata import AttentionMeta
from engine.core.packing import PackedRows, PackedStep, pack
from engine.core.rotary_tables import RotaryTables
from engine.core.sequence import SequenceState
from engine.models.forward import ForwardPass
from engine.ops.guidance import Guidance
from engine.ops.operations import Operations
from engine.ops.sampling import NO_TOKEN, SamplingTensors
from engine.request import TextFeatures


@dataclass(frozen=True, slots=True)
class StepLogits:
    """Raw logits of one sequence's step, before guidance: float32 (branches, targets, vocab), the conditional branch
    first. targets: grid cells."""

    id: int
    targets: tuple[int, ...]
    logits: Tensor


WatchLogits = Callable[[StepLogits], None]


class DrawnTokens:
    """The tokens of a dispatched step. read: waits for them, int (n,)."""

    def __init__(self, counts: Sequence[int], read: Callable[[], list[int]]) -> None:
        self._counts = counts
        self._read = read

    def by_sequence(self) -> list[list[int] | None]:
        """In the order of each sequence's targets. None where a sequence's logits hold NaN or infinity."""
        if not sum(self._counts):
            return [[] for _ in self._counts]
        tokens, ends = self._read(), accumulate(self._counts)
        parts = [tokens[end - count : end] for count, end in zip(self._counts, ends, strict=True)]
        if NO_TOKEN in tokens:
            return [None if NO_TOKEN in part else part for part in parts]
        return list(parts)


class Runner:
    """Computes each step on a CPU when it is dispatched.

    watch_logits: called with the raw logits of every sequence and step, for tests and measurements.

    overlap: how many steps may be dispatched whose tokens are not read yet, beside the newest.
    """

    overlap = 0

    def __init__(
        self,
        forward_pass: ForwardPass,
        operations: Operations,
        cache: KVCache,
        rotary: RotaryTables,
        *,
        watch_logits: WatchLogits | None = None,
    ) -> None:
        self.forward_pass = forward_pass
        self.operations = operations
        self.cache = cache
        self.rotary = rotary
        self.watch_logits = watch_logits

    @torch.inference_mode()
    def run(self, sequences: Sequence[SequenceState]) -> DrawnTokens:
        """Dispatches the next step of these sequences."""
        step = self.pack(sequences)
        hidden = self.forward(self.batch(step))
        if not sum(step.counts):
            return DrawnTokens(step.counts, list)
        if self.watch_logits:
            self._show(sequences, step, hidden)
        return DrawnTokens(step.counts, self.draw(hidden, step).tolist)

    def copy_pages(self, pages: Sequence[tuple[int, int]]) -> None:
        """Copies pages (from, to) before the next step."""
        self.cache.copy_pages(pages)

    def write_texts(self, texts: Sequence[tuple[int, TextFeatures]]) -> None:
        """Writes texts to the embedding ids from these on, for the steps from the next one on."""
        if texts:
            assert self.forward_pass.texts is not None
            for first, text in texts:
                self.forward_pass.texts.write(first, text)

    def pack(self, sequences: Sequence[SequenceState]) -> PackedStep:
        starts = self.rotary.starts([sequence.rotary_key for sequence in sequences])
        return pack(sequences, self.cache.page_size, starts)

    def batch(self, step: PackedStep) -> Batch:
        tables = self._tensor(step.block_tables)
        return Batch(self._rows(step.cached, tables), self._rows(step.queries, tables))

    def forward(self, batch: Batch) -> Tensor:
        """The hidden rows (rows, dim) that tokens are drawn from."""
        hidden = self.forward_pass.embeddings[:0]
        if len(batch.cached):
            hidden = self.forward_pass.cached(batch.cached, self.cache)
        if self.forward_pass.draws_from_queries and len(batch.queries):
            hidden = self.forward_pass.queries(batch.queries, self.cache)
        return hidden

    def draw(self, hidden: Tensor, step: PackedStep) -> Tensor:
        """Tokens int32 (n,)."""
        conditional, unconditional, slots = map(self._tensor, step.draws)
        guidance = Guidance(conditional, unconditional, self._tensor(step.guidance))
        forward = self.forward_pass
        logits = self.operations.logits(hidden, forward.norm, forward.head, guidance)
        settings = np.ascontiguousarray(step.settings.T)
        params = SamplingTensors(
            temperature=self._tensor(settings[0].view(np.float32)),
            top_p=self._tensor(settings[1].view(np.float32)),
            top_k=self._tensor(settings[2]),
            uniform=self._tensor(step.uniforms),
            slots=slots,
            greedy=step.greedy,
            filtered=step.filtered,
        )
        return self.operations.sample(logits, params, self.cache.tokens)

    def _rows(self, rows: PackedRows, block_tables: Tensor) -> Rows:
        sources, positions, visible, slots = map(self._tensor, rows.columns)
        meta = AttentionMeta(self._tensor(rows.starts), visible, block_tables, self.cache.page_size)
        return Rows(sources, self.rotary.table, positions, slots, meta)

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.cache.on_cpu else tensor.to(self.cache.keys.device)

    def _show(self, sequences: Sequence[SequenceState], step: PackedStep, hidden: Tensor) -> None:
        assert self.watch_logits is not None
        start, forward = 0, self.forward_pass
        for sequence, count in zip(sequences, step.counts, strict=True):
            rows = step.draws[: sequence.plan.branches, start : start + count]
            start += count
            if count:
                wanted = hidden[self._tensor(np.ascontiguousarray(rows)).flatten()]
                logits = self.operations.norm_linear(wanted, forward.norm, forward.head).float()
                own = logits.unflatten(0, rows.shape).clone()
                self.watch_logits(StepLogits(sequence.id, sequence.step.targets, own))

"""Packs the rows of all sequences of a step into one ragged batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.attention.batch import Batch, Rows
from engine.attention.metadata import attention_meta
from engine.core.program import ContentRows, QueryRows, StepRows
from engine.core.rotary_tables import RotaryTables
from engine.core.sequence import SequenceState
from engine.ops.sampling import SamplingTensors


@dataclass(frozen=True, slots=True)
class PackedStep:
    """The input of a forward pass and of the sampling after it.

    counts: tokens to draw for each sequence.
    """

    batch: Batch
    sampling: SamplingTensors
    counts: tuple[int, ...]


class Packer:
    def __init__(self, rotary: RotaryTables, page_size: int, device: torch.device) -> None:
        self._rotary = rotary
        self._page_size = page_size
        self._device = device

    def pack(self, sequences: Sequence[SequenceState]) -> PackedStep:
        """The rows of all branches, sequence after sequence."""
        steps = [self._rows(sequence) for sequence in sequences]
        branches = np.array([sequence.plan.branches for sequence in sequences])
        counts = np.array([len(step.targets) for step in steps])
        return PackedStep(
            batch=self._batch(sequences, steps, branches),
            sampling=self._sampling(sequences, steps, branches, counts),
            counts=tuple(counts.tolist()),
        )

    def _rows(self, sequence: SequenceState) -> StepRows:
        return sequence.program(self._page_size).steps[sequence.next_step]

    def _batch(self, sequences: Sequence[SequenceState], steps: Sequence[StepRows], branches: np.ndarray) -> Batch:
        table, offsets = self._rotary.of([sequence.rotary_key for sequence in sequences])
        tables = _join_tables([sequence.program(self._page_size).block_tables for sequence in sequences])
        contents, queries = [step.content for step in steps], [step.queries for step in steps]

        def rows(parts: Sequence[ContentRows | QueryRows], tokens: np.ndarray, slots: np.ndarray) -> Rows:
            lengths = np.array([len(part.positions) for part in parts])
            starts = np.zeros(branches.sum() + 1, dtype=np.int32)
            np.cumsum(np.repeat(lengths // branches, branches), out=starts[1:])
            positions = np.concatenate([part.positions for part in parts])
            if any(offsets):
                positions += np.repeat(np.array(offsets, dtype=np.int32), lengths)
            visible = np.concatenate([part.visible for part in parts])
            meta = attention_meta(starts, visible, tables, self._page_size, self._device)
            return Rows(self._tensor(tokens), table, self._tensor(positions), self._tensor(slots), meta)

        return Batch(
            cached=rows(contents, _tokens(sequences, contents), np.concatenate([part.slots for part in contents])),
            queries=rows(queries, np.concatenate([part.ids for part in queries]), np.empty(0, dtype=np.int32)),
            logits_indices=self._tensor(_wanted(steps)),
        )

    def _sampling(
        self, sequences: Sequence[SequenceState], steps: Sequence[StepRows], branches: np.ndarray, counts: np.ndarray
    ) -> SamplingTensors:
        conditional, unconditional = _branch_pairs(branches, counts)
        requests = [sequence.request for sequence in sequences]

        def each(values: list[float], dtype: type) -> Tensor:
            return self._tensor(np.repeat(np.array(values, dtype=dtype), counts))

        return SamplingTensors(
            conditional=self._tensor(conditional),
            unconditional=self._tensor(unconditional),
            guidance=each([step.guidance for step in steps], np.float32),
            temperature=each([request.temperature for request in requests], np.float32),
            top_k=each([request.top_k for request in requests], np.int64),
            top_p=each([request.top_p for request in requests], np.float32),
            uniform=self._tensor(np.concatenate([step.uniforms for step in steps])),
            greedy=all(request.temperature == 0 for request in requests),
            filtered=any(request.top_k > 0 or request.top_p < 1 for request in requests),
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _tokens(sequences: Sequence[SequenceState], parts: Sequence[ContentRows]) -> np.ndarray:
    """Embedding ids (rows,): those of the plan, and the tokens that are drawn by now."""
    return np.concatenate([part.tokens(sequence.tokens) for sequence, part in zip(sequences, parts, strict=True)])


def _wanted(steps: Sequence[StepRows]) -> np.ndarray:
    start, wanted = 0, []
    for step in steps:
        wanted.append(step.wanted + start)
        start += len(step.content.ids)
    return np.concatenate(wanted)


def _join_tables(tables: Sequence[np.ndarray]) -> np.ndarray:
    """int32 (branches, pages), padded with 0 to the width of the widest."""
    width = max(table.shape[1] for table in tables)
    if all(table.shape[1] == width for table in tables):
        return np.concatenate(tables)
    joined = np.zeros((sum(map(len, tables)), width), dtype=np.int32)
    start = 0
    for table in tables:
        joined[start : start + len(table), : table.shape[1]] = table
        start += len(table)
    return joined


def _branch_pairs(branches: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each token to draw, its logit rows in the conditional and in the unconditional branch. Without an
    unconditional branch both are the same row, and guidance changes nothing."""
    logits = branches * counts
    starts = np.cumsum(logits) - logits
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(starts, counts) + within, np.repeat(starts + (branches - 1) * counts, counts) + within

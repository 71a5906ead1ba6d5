"""Packs the rows of all sequences of a step into one ragged batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.core.program import POSITION, Program
from engine.core.sequence import SequenceState


@dataclass(frozen=True, slots=True)
class PackedRows:
    """columns int32 (4, rows): sources, positions, visible, slots; see core.program. starts int32 (branches + 1,): the
    rows of branch b are starts[b] … starts[b + 1]."""

    columns: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True, slots=True)
class PackedStep:
    """The input of a forward pass and of the sampling after it, in numpy: it runs while a GPU computes the step before.

    draws int32 (3, n): for each token to draw, its rows in the conditional and in the unconditional branch, and the
    slot that keeps it. settings int32 (n, 3): see program.sampling_settings. guidance float32 (n,), uniforms float64
    (n,). counts: tokens to draw for each sequence. block_tables int32 (branches, pages), padded with 0. conditions
    int32 (branches,): the embedding id of CONDITION in each. greedy: all temperatures are 0. filtered: top-k or top-p
    applies to some tokens.
    """

    cached: PackedRows
    queries: PackedRows
    draws: np.ndarray
    settings: np.ndarray
    guidance: np.ndarray
    uniforms: np.ndarray
    block_tables: np.ndarray
    conditions: np.ndarray
    counts: tuple[int, ...]
    greedy: bool
    filtered: bool


def pack(sequences: Sequence[SequenceState], page_size: int, rotary_starts: Sequence[int]) -> PackedStep:
    """The rows of all branches, sequence after sequence. rotary_starts: where the rotary entries of each sequence's
    grid start."""
    programs = [sequence.program(page_size) for sequence in sequences]
    steps = [program.steps[sequence.next_step] for sequence, program in zip(sequences, programs, strict=True)]
    cached, queries, lengths, draws, _, uniforms, guidance = zip(*steps, strict=True)
    branch_rows = np.concatenate(lengths, axis=1)
    cached_rows, query_rows, counts = (
        np.array([part.shape[1] for part in parts]) for parts in (cached, queries, draws)
    )
    joined = np.concatenate(draws, axis=1)
    drawing_rows = query_rows if query_rows.any() else cached_rows
    joined[:2] += np.repeat(np.cumsum(drawing_rows) - drawing_rows, counts).astype(np.int32)
    settings = np.stack([program.settings for program in programs])
    temperature, top_p = settings[:, :2].view(np.float32).T
    return PackedStep(
        cached=_rows(cached, cached_rows, branch_rows[0], rotary_starts),
        queries=_rows(queries, query_rows, branch_rows[1], rotary_starts),
        draws=joined,
        settings=settings.repeat(counts, axis=0),
        guidance=np.concatenate(guidance),
        uniforms=np.concatenate(uniforms),
        block_tables=_join_tables(programs),
        conditions=np.array([one for program in programs for one in program.conditions], dtype=np.int32),
        counts=tuple(counts.tolist()),
        greedy=not temperature.any(),
        filtered=bool((settings[:, 2] > 0).any() or (top_p < 1).any()),
    )


def _rows(
    parts: Sequence[np.ndarray], lengths: np.ndarray, branch_rows: np.ndarray, rotary_starts: Sequence[int]
) -> PackedRows:
    """lengths: the rows of each sequence. branch_rows: those of each branch."""
    columns = np.concatenate(parts, axis=1)
    if any(rotary_starts):
        columns[POSITION] += np.repeat(np.array(rotary_starts, dtype=np.int32), lengths)
    starts = np.zeros(len(branch_rows) + 1, dtype=np.int32)
    np.cumsum(branch_rows, out=starts[1:])
    return PackedRows(columns, starts)


def _join_tables(programs: Iterable[Program]) -> np.ndarray:
    """int32 (branches, pages), padded with 0 to the width of the widest."""
    tables = [program.block_tables for program in programs]
    width = max(table.shape[1] for table in tables)
    if all(table.shape[1] == width for table in tables):
        return np.concatenate(tables)
    joined = np.zeros((sum(map(len, tables)), width), dtype=np.int32)
    start = 0
    for table in tables:
        joined[start : start + len(table), : table.shape[1]] = table
        start += len(table)
    return joined

"""The embedding gather: rows of the table, or of the tokens that earlier steps drew on the device."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.ops.gpu.launching import Launch


@triton.jit
def embed_kernel(out, table, sources, tokens, dim: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0)
    source = tl.load(sources + row)
    drawn = tl.load(tokens + (-2 - source), mask=source < -1, other=0)
    # A row without finite logits has left NO_TOKEN: any embedding will do, but not memory before the table.
    entry = tl.maximum(tl.where(source < 0, drawn, source), 0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    values = tl.load(table + entry * dim + lane, mask=lane < dim)
    tl.store(out + row.to(tl.int64) * dim + lane, values, mask=lane < dim)


def embed(launch: Launch, table: Tensor, sources: Tensor, tokens: Tensor) -> Tensor:
    """Embeddings (rows, dim) from table (entries, dim). sources (rows,) int32: an entry of the table, or -2 - slot for
    the token in tokens[slot] (int32)."""
    rows, dim = sources.shape[0], table.shape[1]
    out = torch.empty(rows, dim, dtype=table.dtype, device=table.device)
    launch(embed_kernel, (rows,), out, table, sources, tokens, dim=dim, BLOCK=triton.next_power_of_2(dim))
    return out

"""paged_attention: the reference against a plain implementation. For the Triton kernel see gpu/."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from engine.attention.metadata import AttentionMeta, tiles_of
from engine.attention.paged import paged_attention, paged_attention_reference


def scene(
    seed: int, page_size: int, head_dim: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[list[int]], list[list[int]]]:
    """Ragged branches over shuffled pages: an empty one, single rows, causal and block-wise ones."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    visible = [[], [1], list(range(5, 25)), [70] * 33, [rng.randint(1, 90) for _ in range(7)]]
    pages = list(range(300))
    rng.shuffle(pages)
    block_tables = [[pages.pop() for _ in range(math.ceil(max(v, default=1) / page_size))] for v in visible]
    # One branch has consecutive pages, as a fresh cache gives them.
    block_tables[3] = list(range(300, 300 + len(block_tables[3])))
    heads, rows = 3, sum(len(v) for v in visible)
    q = torch.randn(rows, heads, head_dim, generator=generator)
    keys, values = torch.randn(2, 400 * page_size, heads, head_dim, generator=generator).unbind()
    return q.to(dtype), keys.to(dtype), values.to(dtype), visible, block_tables


def spelled_out(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    visible: list[list[int]],
    block_tables: list[list[int]],
    page: int,
) -> torch.Tensor:
    out = []
    row = 0
    for seen, table in zip(visible, block_tables, strict=True):
        slots = torch.tensor([p * page + offset for p in table for offset in range(page)], dtype=torch.long)
        for n in seen:
            k, v = keys[slots[:n]].double(), values[slots[:n]].double()
            weights = (torch.einsum("hd,khd->hk", q[row].double(), k) / q.shape[-1] ** 0.5).softmax(-1)
            out.append(torch.einsum("hk,khd->hd", weights, v))
            row += 1
    return torch.stack(out)


def meta_of(visible: list[list[int]], block_tables: list[list[int]], page_size: int) -> AttentionMeta:
    width = max(map(len, block_tables))
    starts = np.cumsum([0, *map(len, visible)]).astype(np.int32)
    return AttentionMeta(
        torch.from_numpy(starts),
        torch.tensor([n for rows in visible for n in rows], dtype=torch.int32),
        torch.tensor([[*table, *[0] * (width - len(table))] for table in block_tables], dtype=torch.int32),
        page_size,
        torch.from_numpy(tiles_of(starts)),
    )


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("head_dim", [24, 64, 100])
def test_every_row_sees_the_first_rows_of_its_own_sequence(page_size: int, head_dim: int) -> None:
    q, keys, values, visible, block_tables = scene(page_size, page_size, head_dim, torch.float32)
    meta = meta_of(visible, block_tables, page_size)
    expected = spelled_out(q, keys, values, visible, block_tables, page_size)
    assert (paged_attention_reference(q, keys, values, meta) - expected).abs().max() < 1e-5


def test_nothing_comes_of_no_rows() -> None:
    meta = meta_of([[], []], [[1], [2]], 4)
    q = torch.empty(0, 3, 8)
    assert paged_attention(q, torch.zeros(40, 3, 8), torch.zeros(40, 3, 8), meta).shape == (0, 3, 8)

"""Paged attention with rotated queries, against attention spelled out row by row."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from engine.ops.functions import rotate
from engine.ops.gpu.attention import paged_attention
from engine.ops.gpu.launching import launch

HEADS, TILE = 3, 16


@dataclass(frozen=True)
class Scene:
    """Ragged branches over shuffled pages, some shared: an empty branch, single rows, causal and block-wise rows."""

    q: Tensor
    keys: Tensor
    values: Tensor
    rotary: Tensor
    positions: Tensor
    tiles: Tensor
    block_tables: Tensor
    visible: Tensor
    page_size: int

    def attend(self) -> Tensor:
        return paged_attention(
            launch, self.q, self.rotary, self.positions, self.keys, self.values, tiles=self.tiles,
            block_tables=self.block_tables, visible=self.visible, page_size=self.page_size, rows_a_tile=TILE,
        )  # fmt: skip

    def spelled_out(self) -> Tensor:
        heads = self.q.unflatten(-1, (HEADS, -1))
        rotated, out = rotate(heads, self.rotary[self.positions]), torch.zeros(heads.shape, dtype=torch.float64)
        for branch, first, end in self.tiles.tolist():
            pages = self.block_tables[branch].long()[:, None] * self.page_size + torch.arange(self.page_size)
            for row in range(first, min(first + TILE, end)):
                slots = pages.flatten()[: self.visible[row]]
                k, v = self.keys[slots].double(), self.values[slots].double()
                weights = (torch.einsum("hd,khd->hk", rotated[row].double(), k) / k.shape[-1] ** 0.5).softmax(-1)
                out[row] = torch.einsum("hk,khd->hd", weights, v)
        return out.flatten(1)


def scene(page_size: int, head_dim: int, dtype: torch.dtype = torch.float32) -> Scene:
    rng, generator = random.Random(page_size), torch.Generator().manual_seed(head_dim)
    visible = [[], [1], list(range(5, 25)), [70] * 33, [rng.randint(1, 90) for _ in range(7)]]
    pages = list(range(120 * 5 // page_size))
    rng.shuffle(pages)
    tables = torch.tensor([[pages.pop() for _ in range(-(-96 // page_size))] for _ in visible], dtype=torch.int32)
    tables[4, :3] = tables[3, :3]
    ends = torch.tensor([len(v) for v in visible]).cumsum(0).tolist()
    tiles = [
        [branch, first, end]
        for branch, (end, v) in enumerate(zip(ends, visible, strict=True))
        for first in range(end - len(v), end, TILE)
    ]

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(dtype)

    return Scene(
        q=normal(ends[-1], HEADS * head_dim),
        keys=normal(608, HEADS, head_dim),
        values=normal(608, HEADS, head_dim),
        rotary=torch.randn(50, head_dim // 2, 2, generator=generator),
        positions=torch.randint(50, (ends[-1],), generator=generator, dtype=torch.int32),
        tiles=torch.tensor(tiles, dtype=torch.int32),
        block_tables=tables,
        visible=torch.tensor([n for v in visible for n in v], dtype=torch.int32),
        page_size=page_size,
    )


@pytest.mark.parametrize(
    ("head_dim", "page_size", "dtype", "tolerance"),
    [
        (24, 1, torch.float32, 1e-5),
        (48, 4, torch.float32, 1e-5),
        (64, 16, torch.float32, 1e-5),
        (100, 4, torch.float32, 1e-5),
        (64, 4, torch.float16, 4e-3),
        (48, 16, torch.bfloat16, 3e-2),
        (80, 1, torch.bfloat16, 3e-2),
        (128, 16, torch.bfloat16, 3e-2),
    ],
)
def test_every_row_sees_the_first_rows_of_its_own_branch(
    head_dim: int, page_size: int, dtype: torch.dtype, tolerance: float
) -> None:
    made = scene(page_size, head_dim, dtype)
    found = made.attend()
    assert found.dtype == dtype
    assert (found - made.spelled_out()).abs().max() < tolerance


def test_queries_may_be_one_expanded_row_or_a_part_of_wider_rows() -> None:
    made = scene(16, 64)
    same = made.q[:1].repeat(len(made.q), 1)
    assert torch.equal(replace(made, q=made.q[:1].expand(len(made.q), -1)).attend(), replace(made, q=same).attend())
    wider = torch.cat([made.q, made.q + 1], dim=1)
    assert torch.equal(replace(made, q=wider[:, : made.q.shape[1]]).attend(), made.attend())


def test_padding_of_nan_changes_no_bit_of_a_row() -> None:
    made = scene(16, 64)
    rows, nan = len(made.q), float("nan")
    padded = replace(
        made,
        q=torch.cat([made.q, torch.full((9, made.q.shape[1]), nan)]),
        positions=torch.cat([made.positions, torch.zeros(9, dtype=torch.int32)]),
        visible=torch.cat([made.visible, torch.ones(9, dtype=torch.int32)]),
        tiles=torch.cat([made.tiles, torch.zeros(4, 3, dtype=torch.int32)]),
    )
    used = torch.unique(made.block_tables).long()
    unused = torch.ones(608 // 16, dtype=torch.bool)
    unused[used] = False
    for cached in (padded.keys, padded.values):
        cached.unflatten(0, (-1, 16))[unused] = nan
    assert torch.equal(padded.attend()[:rows], made.attend())


def test_a_row_depends_on_no_other_row() -> None:
    """Bit by bit where it keeps its place in the tile. At another place numpy's BLAS, which multiplies in the
    interpreter, may round otherwise on some CPUs."""
    made = scene(4, 48)
    together = made.attend()
    for row in (0, 9, 40, 57):
        others = torch.arange(len(made.q)) != row
        q = torch.where(others[:, None], 7 - 2 * made.q, made.q)
        assert torch.equal(replace(made, q=q).attend()[row], together[row])
        branch = next(b for b, first, end in made.tiles.tolist() if first <= row < end)
        alone = replace(made, tiles=torch.tensor([[branch, row, row + 1]], dtype=torch.int32)).attend()[row]
        assert (alone - together[row]).abs().max() <= 1e-6 * together[row].abs().max()

"""paged_attention: attention of ragged rows over a paged cache, in torch. For a GPU see ops/gpu/attention.py.

The contract: row i of branch b sees the first visible[i] cached rows of b. Causal rows, block-wise rows and query rows
differ in that number alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.attention.metadata import AttentionMeta


def paged_attention(q: Tensor, keys: Tensor, values: Tensor, meta: AttentionMeta) -> Tensor:
    """Softmax attention of q (rows, heads, head_dim) over cached keys and values (slots, heads, head_dim)."""
    if q.shape[0] == 0:
        return q
    return paged_attention_reference(q, keys, values, meta)


def paged_attention_reference(q: Tensor, keys: Tensor, values: Tensor, meta: AttentionMeta) -> Tensor:
    """As paged_attention: gathers the pages of each branch, then attends. The kernels are tested against it."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    starts, every_visible = meta.starts.tolist(), meta.visible.cpu().numpy()
    for branch, table in enumerate(meta.block_tables.cpu().numpy()):
        rows = slice(starts[branch], starts[branch + 1])
        if rows.start == rows.stop:
            continue
        visible = every_visible[rows]
        length, mask = int(visible.max()), None
        if visible.min() < length:
            mask = torch.arange(length, device=q.device) < torch.from_numpy(visible).to(q.device)[:, None]
        slots = _slots(table, length, meta.page_size, q.device)
        attended = F.scaled_dot_product_attention(
            q[rows].transpose(0, 1)[None],
            keys[slots].transpose(0, 1)[None],
            values[slots].transpose(0, 1)[None],
            attn_mask=mask,
        )
        out[rows] = attended[0].transpose(0, 1)
    return out


def _slots(table: np.ndarray, length: int, page_size: int, device: torch.device) -> slice | Tensor:
    """The first slots of a branch; a slice, and so no copy, where its pages follow one another."""
    pages = table[: -(-length // page_size)]
    if (np.diff(pages) == 1).all():
        first = int(pages[0]) * page_size
        return slice(first, first + length)
    starts = torch.from_numpy(pages.astype(np.int64))[:, None] * page_size
    return (starts + torch.arange(page_size)).flatten()[:length].to(device)

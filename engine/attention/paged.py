"""paged_attention: attention of ragged rows over a paged cache, the same call on every device.

The contract: row i of branch b sees the first visible[i] cached rows of b. Causal rows, block-wise rows and query rows
differ in that number alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.attention.metadata import AttentionMeta


def paged_attention(q: Tensor, keys: Tensor, values: Tensor, meta: AttentionMeta) -> Tensor:
    """Softmax attention of q (rows, heads, head_dim) over cached keys and values (slots, heads, head_dim)."""
    if q.shape[0] == 0:
        return q
    if q.device.type == "cuda":
        from engine.attention.triton_kernel import paged_attention_triton

        return paged_attention_triton(q, keys, values, meta)
    return paged_attention_reference(q, keys, values, meta)


def paged_attention_reference(q: Tensor, keys: Tensor, values: Tensor, meta: AttentionMeta) -> Tensor:
    """As paged_attention: gathers the pages of each branch, then attends. It is the path on a CPU, and the kernel is
    tested against it."""
    out = torch.empty_like(q)
    for branch, slots in enumerate(meta.slots):
        rows = slice(meta.starts[branch], meta.starts[branch + 1])
        if rows.start == rows.stop:
            continue
        mask = None
        if not meta.uniform[branch]:
            mask = torch.arange(meta.lengths[branch]) < meta.visible[rows, None]
        attended = F.scaled_dot_product_attention(
            q[rows].transpose(0, 1)[None],
            keys[slots].transpose(0, 1)[None],
            values[slots].transpose(0, 1)[None],
            attn_mask=mask,
        )
        out[rows] = attended[0].transpose(0, 1)
    return out

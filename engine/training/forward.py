"""ARPG's teacher-forced pass, written for training speed; its results are those of `ARPG.teacher_forced`.

Two things differ. Rotation of interleaved pairs, slow on a CPU, becomes two multiplications: with J
the quarter turn of every pair, rotate(W x) = cos · (W x) + sin · (J W x). And attention is written out as
matrix products, whose backward pass runs on matrix units where the fused CPU kernel's does not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models.arpg import ARPG
from engine.models.network import Model

PADDED = -1e9
"""Added to the scores of padding."""


def rotation_table(model: Model, grid: tuple[int, int]) -> Tensor:
    """cos and sin for every element of a head, (2, 1 + rows·cols, head_dim)."""
    return model.rotary(grid).repeat_interleave(2, dim=1).permute(2, 0, 1).contiguous()


class AnyOrder:
    """The objective of ARPG: the tokens of a batch in the batch's own orders."""

    def __init__(self, network: ARPG, grid: tuple[int, int]) -> None:
        self._rotation = rotation_table(network, grid)

    def __call__(self, network: ARPG, ids: Tensor, classes: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 (B, L, vocab_size) and the tokens (B, L) that they predict."""
        condition = F.embedding(network.config.class_id(0) + classes[:, None], network.embeddings.weight)
        logits = training_logits(network, condition, ids, orders, self._rotation.to(ids.device))
        return logits, ids.gather(1, orders)


def training_logits(
    model: ARPG, condition: Tensor, ids: Tensor, orders: Tensor, rotation: Tensor, padding: Tensor | None = None
) -> Tensor:
    """Logits float32 (B, L, vocab_size). condition (B, n, dim): the rows in front of the tokens. ids and orders as for
    `ARPG.teacher_forced`, `rotation` from `rotation_table`. padding bool (B, n): condition rows that no other row sees.

    Orders (B, L) may be shorter than the grid; the pass then ends with them.
    """
    config, heads = model.config, model.config.n_head
    dtype, rows = model.head.weight.dtype, condition.shape[1]
    places = F.pad(orders[:, :-1] + 1, (rows, 0))
    content_turn = rotation[:, places].to(dtype).unsqueeze(-2)
    query_turn = rotation[:, orders + 1].to(dtype).unsqueeze(-2)
    hidden = torch.full((places.shape[1], places.shape[1]), float("-inf"), device=ids.device).triu(1)
    if padding is not None:
        # Finite, because a padding row sees nothing but padding.
        hidden = hidden + F.pad(padding * PADDED, (0, orders.shape[1] - 1))[:, None, None]

    tokens = F.embedding(ids.gather(1, orders)[:, :-1], model.embeddings.weight)
    x = torch.cat([condition, tokens], dim=1)
    for layer in model.layers.self_dec:
        attn, normed = layer.attn, layer.attn_norm(x)
        q = turned(normed, attn.to_q.weight, heads, content_turn)
        k = turned(normed, attn.to_k.weight, heads, content_turn)
        v = attn.to_v(normed).unflatten(-1, (heads, -1))
        x = layer.after(x, attend(q, k, v, hidden))
    normed = model.layers.norm(x)
    k = turned(normed, model.layers.to_k.weight, heads, content_turn)
    v = model.layers.to_v(normed).unflatten(-1, (heads, -1))
    x = model.embeddings.weight[config.mask_id].expand(*orders.shape, -1)
    for cross in model.layers.cross_dec:
        q = turned(cross.attn_norm(x), cross.attn.to_q.weight, heads, query_turn)
        x = cross.after(x, attend(q, k, v, hidden[..., rows - 1 :, :]))
    return model.head(model.norm(x)).float()


def turned(x: Tensor, weight: Tensor, heads: int, turn: Tensor) -> Tensor:
    """rotate(weight x): (B, L, heads, head_dim)."""
    even, odd = weight.unflatten(0, (-1, 2)).unbind(1)
    quarter = torch.stack([-odd, even], dim=1).flatten(0, 1)
    plain, turned = F.linear(x, torch.cat([weight, quarter])).chunk(2, dim=-1)
    return plain.unflatten(-1, (heads, -1)) * turn[0] + turned.unflatten(-1, (heads, -1)) * turn[1]


def attend(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    """Attention over (B, rows, heads, head_dim). hidden is added to the scores (B, heads, queries, keys)."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (torch.softmax(scores.float() + hidden, dim=-1).to(v.dtype) @ v).transpose(1, 2)

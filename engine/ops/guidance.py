"""Classifier-free guidance (CFG): two branches' logits to one."""

from __future__ import annotations

from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance u + s · (c - u) of float32 logits (n, vocab) with scale (n,)."""
    return unconditional + (conditional - unconditional) * scale[:, None]

"""Classifier-free guidance (CFG): the rows of two branches to one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Guidance:
    """For each token to draw, (n,): its rows int32 in the conditional and in the unconditional branch, which are the
    same row where there is no unconditional branch, and the scale float32."""

    conditional: Tensor
    unconditional: Tensor
    scale: Tensor


def guide(rows: Tensor, guidance: Guidance) -> Tensor:
    """Classifier-free guidance u + s · (c - u): float32 (n, width) of rows (m, width)."""
    conditional, unconditional = rows[guidance.conditional].float(), rows[guidance.unconditional].float()
    return unconditional + (conditional - unconditional) * guidance.scale[:, None]

"""Muon for the matrices (and convolution kernels) inside a network, AdamW for everything else.

Muon (Jordan et al. 2024) orthogonalises a matrix's update. On these small networks it needs a third to half of
AdamW's steps; embeddings, output layers, norms and biases don't map hidden states to hidden states and use AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class MatrixOptimizer:
    """Both optimizers as one; `is_hidden(name, parameter)` says which parameters Muon trains."""

    def __init__(
        self,
        model: nn.Module,
        is_hidden: Callable[[str, nn.Parameter], bool],
        *,
        matrix_rate: float,
        rate: float,
        weight_decay: float = 0.0,
    ) -> None:
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._hidden = [p for name, p in trained if is_hidden(name, p)]
        rest = [p for name, p in trained if not is_hidden(name, p)]
        # Muon takes matrices: kernels are seen as (out, in · height · width), sharing their memory.
        self._matrices = [nn.Parameter(_as_matrix(p.data)) for p in self._hidden]
        self._muon = torch.optim.Muon(self._matrices, lr=matrix_rate, weight_decay=weight_decay, momentum=0.95)
        self._adamw = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self._rates = (matrix_rate, rate)

    def scale_rates(self, scale: float) -> None:
        for optimizer, rate in zip((self._muon, self._adamw), self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale

    def step(self) -> None:
        for matrix, p in zip(self._matrices, self._hidden, strict=True):
            matrix.grad = None if p.grad is None else _as_matrix(p.grad)
        self._muon.step()
        self._adamw.step()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adamw"])


def _as_matrix(value: Tensor) -> Tensor:
    if value.dim() == 2:
        return value
    return value.permute(0, 2, 3, 1).flatten(1)  # a view of a channels-last kernel

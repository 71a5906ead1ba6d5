"""Logits to tokens: temperature, top-k, top-p, and the draw by a seeded number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NO_TOKEN = -1
"""In place of a token whose logits are not finite."""


@dataclass(frozen=True, slots=True)
class SamplingTensors:
    """How the tokens of a step are drawn, (n,) each.

    temperature, top_p: float32. top_k: int32. uniform: float64 numbers in (0, 1) that decide the draws. slots: int32,
    where KVCache.tokens keeps the token for later rows; -1: none carries it. greedy: all temperatures are 0. filtered:
    top-k or top-p applies to some tokens.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    uniform: Tensor
    slots: Tensor
    greedy: bool
    filtered: bool


def sample(logits: Tensor, params: SamplingTensors) -> Tensor:
    """Tokens (n,) from logits (n, vocab). Temperature 0 takes the argmax. A row that is not finite gives NO_TOKEN."""
    tokens = logits.argmax(-1)
    if not params.greedy:
        tokens = torch.where(params.temperature == 0, tokens, draw(probabilities(logits, params), params.uniform))
    return torch.where(logits.isfinite().all(-1), tokens, NO_TOKEN)


def probabilities(logits: Tensor, params: SamplingTensors) -> Tensor:
    """The distribution (n, vocab) float32 after temperature, then top-k, then top-p; it is not normalised again."""
    temperature = torch.where(params.temperature == 0, 1.0, params.temperature).clamp(min=1e-5)
    probs = (logits / temperature[:, None]).softmax(-1)
    if not params.filtered:
        return probs
    filtered = (params.top_k > 0) | (params.top_p < 1)
    ordered, tokens = probs.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(probs.shape[-1], device=probs.device)
    in_k = (params.top_k[:, None] == 0) | (rank < params.top_k[:, None])
    ordered = torch.where(in_k, ordered, 0.0)
    # A token stays while the tokens before it hold less than top_p of what top-k left.
    before = ordered.cumsum(-1) - ordered
    in_p = before < params.top_p[:, None] * ordered.sum(-1, keepdim=True)
    keep = torch.zeros_like(in_k).scatter_(-1, tokens, in_k & in_p)
    return torch.where(keep | ~filtered[:, None], probs, 0.0)


def draw(probs: Tensor, uniform: Tensor) -> Tensor:
    """Tokens (n,): the inverse of each cumulative distribution at uniform. So a draw takes one random number, not one
    for each vocabulary entry."""
    cumulative = probs.double().cumsum(-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)

"""A fast backward pass for group norm on channels-last tensors.

torch's own takes 60 % of a tokenizer step on a CPU. The gradient of group norm is
dx = a·dy + b·x + c with a per channel and b, c per group, so it needs two sums and one multiply-add.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        n, channels, height, width = x.shape
        y, mean, inverse = torch.native_group_norm(
            x, weight.to(x.dtype), bias.to(x.dtype), n, channels, height * width, groups, eps
        )
        context.save_for_backward(x, weight, mean, inverse)
        return y

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = context.saved_tensors
        n, channels, height, width = x.shape
        groups = mean.shape[1]
        dy = gradients[0].contiguous(memory_format=torch.channels_last)
        by_channel = dy.sum((2, 3), dtype=torch.float32)
        by_content = (dy * x).sum((2, 3), dtype=torch.float32)
        mean, inverse = mean.float()[:, :, None], inverse.float()[:, :, None]
        first = by_channel.view(n, groups, -1)
        second = (by_content.view(n, groups, -1) - mean * first) * inverse  # sum of dy · normed
        scale = weight.float().view(1, groups, -1)
        share = 1.0 / (channels // groups * height * width)
        total = (first * scale).sum(-1, keepdim=True) * share
        slope = (second * scale).sum(-1, keepdim=True) * share * inverse
        a = (scale * inverse).reshape(n, channels, 1, 1)
        b = (-slope * inverse).expand_as(first).reshape(n, channels, 1, 1)
        c = ((slope * mean - total) * inverse).expand_as(first).reshape(n, channels, 1, 1)
        dx = torch.addcmul((x * b.to(x.dtype)).add_(c.to(x.dtype)), dy, a.to(x.dtype))
        return dx, second.sum(0).flatten(), first.sum(0).flatten(), None, None


def _forward(self: nn.GroupNorm, x: Tensor) -> Tensor:
    return _GroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps)


def quicken_group_norm(model: nn.Module) -> None:
    """Give every group norm of a model the fast backward pass; results are the same up to rounding."""
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]

"""What an engine is set to, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.checks import flag, number, whole
from engine.core.scheduler import Limit
from engine.request import RequestError

MAX_PAGE_SIZE = 1024
MAX_CACHE_TOKENS = 2**31 - 2 * MAX_PAGE_SIZE
"""Slots are int32."""
MAX_ROWS = 2**20
MAX_RUNNING = 2**16

GPU_CACHE_SHARE = 0.6
"""Share of the GPU memory that is free after loading the weights; steps and the tokenizer need the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """page_size: rows of a page. cache_tokens: rows of the KV cache; None: cache_share of the GPU's free memory, or 256
    MiB on a CPU. max_rows: row budget of a step. max_running: requests drawn at once. batch_invariant: the bits of a
    request's logits don't depend on the other requests in its steps (CPU, float32; slower). check_every_step: check
    pages and block tables after each step, not only when the engine falls idle. dtype: None: bfloat16 on a GPU,
    float32 on a CPU. Raises ValueError with the field at fault."""

    page_size: int = 16
    cache_tokens: int | None = None
    cache_share: float = GPU_CACHE_SHARE
    max_rows: int = 2048
    max_running: int = 256
    batch_invariant: bool = False
    check_every_step: bool = False
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        try:
            for name, most in (("page_size", MAX_PAGE_SIZE), ("max_rows", MAX_ROWS), ("max_running", MAX_RUNNING)):
                object.__setattr__(self, name, whole(name, getattr(self, name), 1, most))
            if self.cache_tokens is not None:  # at least a page
                tokens = whole("cache_tokens", self.cache_tokens, self.page_size, MAX_CACHE_TOKENS)
                object.__setattr__(self, "cache_tokens", tokens)
            object.__setattr__(self, "cache_share", number("cache_share", self.cache_share, 0, 1))
            for name in ("batch_invariant", "check_every_step"):
                object.__setattr__(self, name, flag(name, getattr(self, name)))
        except RequestError as error:
            raise ValueError(str(error)) from None
        if self.cache_share == 0:
            raise ValueError("cache_share: must be above 0")
        if not (self.dtype is None or (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point)):
            raise ValueError(f"dtype: must be a floating-point torch.dtype or None, got {self.dtype!r}")


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Pages are those of the KV cache; rows count all branches; totals count since the start. rows_shared_total: rows
    found in another sequence's pages and so not computed. pages_copied_total: pages copied for that. limit: what kept a
    request out of the last step; None: nothing did."""

    running: int
    waiting: int
    pages_used: int
    pages_total: int
    rows_last_step: int
    rows_total: int
    steps_total: int
    rows_shared_total: int
    pages_copied_total: int
    limit: Limit | None

"""Runs a step: packs it, computes the logits and samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from engine.attention.batch import Batch
from engine.attention.kv_cache import KVCache
from engine.core.packing import PackedStep, Packer
from engine.core.sequence import SequenceState
from engine.models.forward import ForwardPass
from engine.ops.operations import Operations
from engine.ops.sampling import NO_TOKEN, SamplingTensors


@dataclass(frozen=True, slots=True)
class StepLogits:
    """Raw logits of one sequence's step, before guidance: float32 (branches, targets, vocab), the conditional branch
    first. targets: grid cells."""

    id: int
    targets: tuple[int, ...]
    logits: Tensor


class Runner:
    """watch_logits: called with the raw logits of every sequence and step, for tests and measurements."""

    def __init__(
        self,
        forward_pass: ForwardPass,
        operations: Operations,
        cache: KVCache,
        packer: Packer,
        *,
        watch_logits: Callable[[StepLogits], None] | None = None,
    ) -> None:
        self.forward_pass = forward_pass
        self.operations = operations
        self.cache = cache
        self.packer = packer
        self.watch_logits = watch_logits

    @torch.inference_mode()
    def run(self, sequences: Sequence[SequenceState]) -> list[list[int]]:
        """One forward pass. Returns the tokens that each sequence's step draws, in the order of its targets.

        Raises FloatingPointError when the model's logits hold NaN or infinity.
        """
        step = self.pack(sequences)
        logits = self.forward(step.batch)
        if not sum(step.counts):
            return [[] for _ in sequences]
        if self.watch_logits:
            self._show(sequences, logits)
        drawn = iter(self.sample(logits, step.sampling))
        return [list(islice(drawn, count)) for count in step.counts]

    def pack(self, sequences: Sequence[SequenceState]) -> PackedStep:
        return self.packer.pack(sequences)

    def forward(self, batch: Batch) -> Tensor:
        return self.forward_pass(batch, self.cache)

    def sample(self, logits: Tensor, params: SamplingTensors) -> list[int]:
        tokens: list[int] = self.operations.sample(logits, params).tolist()
        if NO_TOKEN in tokens:
            raise FloatingPointError("the model's logits are not finite")
        return tokens

    def _show(self, sequences: Sequence[SequenceState], logits: Tensor) -> None:
        assert self.watch_logits is not None
        start = 0
        for sequence in sequences:
            targets = sequence.step.targets
            end = start + len(targets) * sequence.plan.branches
            if targets:
                own = logits[start:end].unflatten(0, (sequence.plan.branches, len(targets)))
                self.watch_logits(StepLogits(sequence.id, targets, own.clone()))
            start = end

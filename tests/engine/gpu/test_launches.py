"""How many kernels a layer takes on a GPU, counted on meta tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine.ops.choice import choose_operations

pytest.importorskip("triton", reason="Triton is not installed")

from engine.ops.gpu.operations import TritonOperations
from tests.engine.gpu.support import DIM, step

NO_KERNEL = ("empty", "t", "view", "slice", "select", "expand", "unsqueeze")


class Counter(TorchDispatchMode):
    """Counts launches of Triton and of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        self.names.append(kernel.__name__)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in NO_KERNEL:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_a_layer_takes_few_kernels() -> None:
    made = step("meta", torch.bfloat16)
    rows, cache, layer, counter = made.rows, made.cache, made.layer, Counter()
    operations = TritonOperations(counter.launch)
    with counter:
        x = operations.embed(rows, made.tokens, made.table)
        assert len(counter.names) == 1
        qkv = operations.norm_linear(x, layer.norm, layer.projection)
        x = operations.finish_layer(x, operations.self_attention(qkv, rows, cache, 0), layer)
        assert len(counter.names) == 1 + 9, counter.names
        q = operations.norm_linear(x, layer.norm, layer.projection)[:, :DIM]
        x = operations.finish_layer(x, operations.cross_attention(q, rows, cache, 0), layer)
        assert len(counter.names) == 1 + 9 + 8, counter.names
        logits = operations.logits(x, layer.norm, made.head, made.guidance)
        operations.sample(logits, made.sampling, made.tokens)
    assert len(counter.names) == 1 + 9 + 8 + 3, counter.names
    assert logits.dtype == torch.float32


def test_a_gpu_without_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "engine.ops.gpu.operations", None)
    with pytest.raises(RuntimeError, match="Triton"):
        choose_operations(torch.device("cuda"), torch.bfloat16, batch_invariant=False)

"""How many kernels a layer takes on a GPU, counted on meta tensors."""

from __future__ import annotations

import pytest
import torch

from engine.ops.choice import choose_operations

pytest.importorskip("triton", reason="Triton is not installed")

from engine.ops.gpu.operations import TritonOperations
from tests.engine.gpu.fake import Kernels
from tests.engine.gpu.support import DIM, step


def test_a_layer_takes_few_kernels() -> None:
    made = step("meta", torch.bfloat16)
    rows, cache, layer, counter = made.rows, made.cache, made.layer, Kernels()
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

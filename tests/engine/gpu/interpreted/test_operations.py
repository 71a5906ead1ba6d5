"""A layer, guided logits and the draw by TritonOperations, against those by torch."""

from __future__ import annotations

import pytest
import torch

from engine.ops.gpu.operations import TritonOperations
from engine.ops.reference import TorchOperations
from tests.engine.gpu.support import run, step


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_a_step_of_the_kernels_is_that_of_torch(dtype: torch.dtype, tolerance: float) -> None:
    found, expected = run(TritonOperations(), step("cpu", dtype)), run(TorchOperations(), step("cpu", dtype))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        if dtype == torch.float32 or one.is_floating_point():  # rounding may move a draw
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_one_row_that_is_a_weight_is_not_overwritten() -> None:
    made = step("cpu", torch.float32)
    before = made.table.clone()
    TritonOperations().finish_layer(made.table[:1], made.table[1:2], made.layer)
    assert torch.equal(made.table, before)

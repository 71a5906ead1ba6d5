"""Embedding, norms, SwiGLU and the cache write: to the bit what torch computes, but for the order of float32 sums."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.ops.functions import rms_norm, rotate
from engine.ops.gpu import embedding, feed_forward, norms, rotary
from engine.ops.gpu.launching import launch

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
WIDTHS = pytest.mark.parametrize("dim", [72, 128])


def normal(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size))).to(dtype)


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def close(found: Tensor, expected: Tensor) -> None:
    """Sums in another order may round a few elements to the neighbouring number."""
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=2 * torch.finfo(expected.dtype).eps, atol=1e-6)
    if expected.dtype != torch.float32:
        assert (found != expected).double().mean() < 0.02, "it rounds elsewhere than torch"


@DTYPES
def test_embeddings_come_from_the_table_and_from_drawn_tokens(dtype: torch.dtype) -> None:
    table, tokens = normal(9, 72, dtype=dtype), int32(4, 7, -1)
    found = embedding.embed(launch, table, int32(3, -2, 0, -3, -4), tokens)
    assert torch.equal(found[:4], table[[3, 4, 0, 7]])
    assert torch.equal(found[4], table[0]), "a token that is none must not read memory before the table"


@DTYPES
@WIDTHS
def test_rms_norm(dtype: torch.dtype, dim: int) -> None:
    x, weight = normal(5, 2 * dim, dtype=dtype), normal(dim, dtype=dtype)
    close(norms.rms_norm(launch, x[:, dim:], weight), rms_norm(x[:, dim:], weight))
    expanded = x[:1, :dim].expand(4, -1)
    close(norms.rms_norm(launch, expanded, weight), rms_norm(expanded, weight))


@DTYPES
@WIDTHS
def test_guidance_applies_to_normed_rows_in_float32(dtype: torch.dtype, dim: int) -> None:
    x, weight, scale = normal(6, dim, dtype=dtype), normal(dim, dtype=dtype), torch.tensor([1.0, 5.1, 3.0])
    c, u = int32(0, 2, 5), int32(1, 4, 5)
    normed = rms_norm(x.double(), weight.double())
    expected = normed[u] + scale[:, None].double() * (normed[c] - normed[u])
    found = norms.guided_norm(launch, x, weight, c, u, scale)
    assert found.dtype == dtype
    assert (found - expected).abs().max() <= torch.finfo(dtype).eps * expected.abs().max() * 2
    alone = norms.guided_norm(launch, x, weight, c[2:], u[2:], torch.ones(1))
    assert torch.equal(found[2:], alone), "without an unconditional branch the scale changes nothing"


@DTYPES
@pytest.mark.parametrize("hidden", [72, 1100])
def test_swiglu(dtype: torch.dtype, hidden: int) -> None:
    gate_up = normal(3, 2 * hidden, dtype=dtype) * 3
    gate, up = gate_up.chunk(2, dim=-1)
    close(feed_forward.swiglu(launch, gate_up), F.silu(gate) * up)


@DTYPES
@pytest.mark.parametrize("head_dim", [24, 64, 80])
def test_rotated_keys_and_values_land_in_their_slots_and_nowhere_else(dtype: torch.dtype, head_dim: int) -> None:
    dim, slots = 3 * head_dim, [17, 3, 4, 30]  # across pages, in no order
    qkv, table, positions = normal(6, 3 * dim, dtype=dtype), normal(7, head_dim // 2, 2), int32(2, 0, 6, 6, 1, 0)
    qkv[4:] = float("nan")  # padding: one row without a slot, one that writes to the scratch slot
    keys, values = normal(32, 3, head_dim, dtype=dtype), normal(32, 3, head_dim, dtype=dtype) + 1
    expected_keys, expected_values = keys.clone(), values.clone()
    k, v = qkv[:4, dim:].unflatten(-1, (2, 3, head_dim)).unbind(1)
    expected_keys[slots], expected_values[slots] = rotate(k, table[positions[:4]]), v
    rotary.write(launch, qkv[:, dim:], table, positions, int32(*slots, -1, 31), keys, values)
    torch.testing.assert_close(keys[:31], expected_keys[:31], rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    assert torch.equal(values[:31], expected_values[:31])

"""The compiled operations against those in torch; and a row's result depends on nothing beside it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.attention.batch import Rows
from engine.attention.kv_cache import KVCache, KVShape
from engine.attention.metadata import AttentionMeta
from engine.ops.cpu import CompiledOperations
from engine.ops.guidance import Guidance
from engine.ops.operations import LayerWeights, Operations
from engine.ops.packed_matrix import pack_matrix, product
from engine.ops.reference import TorchOperations
from engine.ops.sampling import NO_TOKEN, SamplingTensors

HEADS = 3
CPU = torch.device("cpu")


@dataclass
class Scene:
    """Branches with cached rows that write new ones: none, one, a causal chunk, chunks that see themselves."""

    rows: Rows
    cache: KVCache
    x: Tensor
    layer: LayerWeights
    qkv: Tensor


def scene(seed: int, head_dim: int, page_size: int, only: int | None = None) -> Scene:
    """only: one of the branches by itself."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    dim, before = HEADS * head_dim, [3, 0, 17, 40, 90]
    visible = [[], [1], list(range(18, 38)), [73] * 33, [97] * 7]
    total = 60 * 16 // page_size
    pages = list(range(total))
    rng.shuffle(pages)
    tables = [[pages.pop() for _ in range(math.ceil(128 / page_size))] for _ in visible]
    slots = [
        [table[(n + i) // page_size] * page_size + (n + i) % page_size for i in range(len(rows))]
        for n, table, rows in zip(before, tables, visible, strict=True)
    ]
    chosen = range(len(visible)) if only is None else [only]
    count = sum(map(len, visible))
    starts = np.cumsum([0, *(len(visible[b]) for b in chosen)]).astype(np.int32)
    own = np.concatenate([np.full(len(v), b) for b, v in enumerate(visible)])
    mask = torch.from_numpy(np.isin(own, list(chosen)))

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*size, generator=generator) * scale

    cache = KVCache(KVShape(2, HEADS, head_dim), total, page_size, device=CPU, dtype=torch.float32)
    cache.keys.copy_(normal(*cache.keys.shape))
    cache.values.copy_(normal(*cache.values.shape))
    cache.tokens.random_(0, 40, generator=generator)
    meta = AttentionMeta(
        torch.from_numpy(starts),
        torch.tensor([n for b in chosen for n in visible[b]], dtype=torch.int32),
        torch.tensor([tables[b] for b in chosen], dtype=torch.int32),
        page_size,
    )
    sources = torch.randint(-2 - 60 * 16, 40, (count,), generator=generator, dtype=torch.int32)
    sources[sources == -1] = 0
    rows = Rows(
        sources=sources[mask],
        rotary=normal(50, head_dim // 2, 2),
        positions=torch.randint(50, (count,), generator=generator, dtype=torch.int32)[mask],
        slots=torch.tensor([s for b in chosen for s in slots[b]], dtype=torch.int32),
        attention=meta,
    )
    hidden = 96
    layer = LayerWeights(
        normal(dim), normal(3 * dim, dim, scale=dim**-0.5), normal(dim, dim, scale=dim**-0.5), normal(dim),
        normal(2 * hidden, dim, scale=dim**-0.5), normal(dim, hidden, scale=hidden**-0.5),
    )  # fmt: skip
    return Scene(rows, cache, normal(count, dim)[mask], layer, normal(count, 3 * dim)[mask])


def with_matrices_of(operations: Operations, made: Scene) -> Scene:
    """The scene with matrices as these operations multiply them fastest."""
    layer, matrix = made.layer, operations.matrix
    return replace(
        made,
        layer=layer._replace(
            projection=matrix(layer.projection),
            output=matrix(layer.output),
            gate_up=matrix(layer.gate_up),
            down=matrix(layer.down),
        ),
    )


def results(operations: Operations, made: Scene) -> dict[str, Tensor]:
    """What each operation gives, and what it leaves in the cache."""
    dim = made.x.shape[1]
    table = torch.randn(40, dim, generator=torch.Generator().manual_seed(9))
    conditional, unconditional = torch.tensor([[0, 2, 5], [1, 2, 9]], dtype=torch.int32)
    guidance = Guidance(conditional, unconditional, torch.tensor([2.5, 3.0, 0.0]))
    count = len(made.x)
    found = {
        "embed": operations.embed(made.rows, made.cache.tokens, table).clone(),
        "first_layer": operations.finish_layer(
            made.x[:1].expand(count, -1), made.qkv[:, :dim].contiguous(), made.layer
        ).clone(),
        "norm_linear": operations.norm_linear(made.x, made.layer.norm, made.layer.projection).clone(),
        "self_attention": operations.self_attention(made.qkv, made.rows, made.cache, 0).clone(),
        "cross_attention": operations.cross_attention(made.qkv[:, :dim].contiguous(), made.rows, made.cache, 0).clone(),
    }
    if count > 9:
        found["logits"] = operations.logits(made.x, made.layer.norm, made.layer.projection, guidance).clone()
    operations.write(made.qkv[:, dim:].contiguous(), made.rows, made.cache, 1)
    found["finish_layer"] = operations.finish_layer(made.x.clone(), made.qkv[:, :dim].contiguous(), made.layer).clone()
    return found | {"keys": made.cache.keys, "values": made.cache.values}


@pytest.mark.parametrize("tile", [None, 32])
@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("head_dim", [24, 64, 100])
def test_compiled_operations_are_those_of_torch(head_dim: int, page_size: int, tile: int | None) -> None:
    expected = results(TorchOperations(tile), scene(1, head_dim, page_size))
    operations = CompiledOperations(tile)
    plain, packed = scene(1, head_dim, page_size), with_matrices_of(operations, scene(1, head_dim, page_size))
    for found in (results(operations, plain), results(operations, packed)):
        for name, value in expected.items():
            assert (found[name] - value).abs().max() < 2e-5, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 5, 9, 37, 130, 513])
def test_a_packed_matrix_gives_the_product(rows: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(rows)
    x, weight = (torch.randn(n, 72, generator=generator).to(dtype) for n in (rows + 3, 40))
    packed = pack_matrix(weight)
    assert packed.is_mkldnn or dtype == torch.bfloat16, "torch has no oneDNN; nothing is packed"
    x = x[:rows]
    poisoned = torch.full((2 * rows + 200, 72), torch.nan, dtype=dtype)  # the rows behind x change nothing
    poisoned[:rows] = x
    strided = torch.cat([x, x], dim=1)[:, :72]
    expected = x.float() @ weight.float().t()
    for given in (x, poisoned[:rows], strided, x.clone()):
        found = product(given, packed)
        assert found.dtype == dtype
        assert (found.float() - expected).abs().max() < (2e-5 if dtype == torch.float32 else 0.2)
    assert product(x[:0], packed).shape == (0, 40)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_bit(threads: Callable[[int], None]) -> None:
    found = []
    for count in (1, 2, 5):
        threads(count)
        operations = CompiledOperations(32)
        found.append(results(operations, with_matrices_of(operations, scene(2, 64, 16))))
    for name, value in found[0].items():
        assert all(torch.equal(value, other[name]) for other in found[1:]), name


@pytest.mark.parametrize("operations", [TorchOperations, CompiledOperations])
def test_in_tiles_a_branch_has_the_same_bits_alone(operations: Callable[[int], Operations]) -> None:
    in_tiles = operations(32)
    together = results(in_tiles, with_matrices_of(in_tiles, scene(3, 64, 16)))
    starts = scene(3, 64, 16).rows.attention.starts.tolist()
    for branch in range(1, len(starts) - 1):
        alone = results(in_tiles, with_matrices_of(in_tiles, scene(3, 64, 16, only=branch)))
        for name in ("norm_linear", "self_attention", "cross_attention", "finish_layer"):
            assert torch.equal(alone[name], together[name][starts[branch] : starts[branch + 1]]), (branch, name)


def test_drawn_tokens_are_those_of_torch_and_kept_for_later_rows() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(200, 512, generator=generator) * 3
    logits[7, 3], logits[11, 4] = math.nan, math.inf
    params = SamplingTensors(
        temperature=torch.rand(200, generator=generator).round(decimals=1),
        top_k=torch.randint(0, 3, (200,), generator=generator, dtype=torch.int32) * 20,
        top_p=1 - torch.randint(0, 2, (200,), generator=generator) * 0.2,
        uniform=torch.rand(200, generator=generator, dtype=torch.float64),
        slots=torch.where(torch.arange(200) % 3 == 0, -1, 299 - torch.arange(200)).int(),
        greedy=False,
        filtered=True,
    )
    kept = [torch.full((300,), 9000, dtype=torch.int32) for _ in range(2)]
    expected = TorchOperations().sample(logits, params, kept[0])
    assert torch.equal(CompiledOperations().sample(logits.clone(), params, kept[1]), expected)
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(kept[0][299 - torch.arange(200)][params.slots >= 0], expected[params.slots >= 0])
    assert expected[[7, 11]].tolist() == [NO_TOKEN, NO_TOKEN]


def test_a_row_that_stands_for_many_is_not_overwritten() -> None:
    for operations in (TorchOperations(), CompiledOperations()):
        made = scene(5, 64, 16)
        row = made.x[:1].clone()
        operations.finish_layer(row.expand(1, -1), made.qkv[:1, : row.shape[1]].contiguous(), made.layer)
        assert torch.equal(row, made.x[:1])

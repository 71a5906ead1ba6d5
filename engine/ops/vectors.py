"""Inner loops of the attention as vector code, for heads of 64 numbers, which most published models have.

LLVM does not keep sums in registers across a loop over keys, because it can't know that the arrays don't overlap.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

HEAD_DIM = 64
LANES = 16
PARTS = range(HEAD_DIM // LANES)
FLOAT = ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)
FAST = ("reassoc", "contract")

_intrinsic: Any = extending.intrinsic  # typed as if it were called as the code that it generates


@_intrinsic
def add_values(typing_context: Any, weights: Any, values: Any, stride: Any, count: Any, out: Any) -> Any:
    """out[0:64] += Σ weights[j] · values[j, 0:64] for j < count. All are addresses of float32; stride: bytes from one
    row of values to the next."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        weights, values, stride, count, out = arguments
        sums = [cgutils.alloca_once_value(builder, _load(builder, out, part)) for part in PARTS]
        with cgutils.for_range(builder, count, intp=count.type) as loop:
            at = builder.add(weights, builder.mul(loop.index, ir.Constant(loop.index.type, 4)))
            weight = _splat(builder, builder.load(builder.inttoptr(at, FLOAT.as_pointer()), align=4))
            row = builder.add(values, builder.mul(loop.index, stride))
            for part, total in zip(PARTS, sums, strict=True):
                product = builder.fmul(weight, _load(builder, row, part), flags=FAST)
                builder.store(builder.fadd(builder.load(total), product, flags=FAST), total)
        for part, total in zip(PARTS, sums, strict=True):
            builder.store(builder.load(total), _address(builder, out, part), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, types.int64), generate


@_intrinsic
def four_scores(
    typing_context: Any, queries: Any, keys: Any, stride: Any, count: Any, scores: Any, scores_stride: Any
) -> Any:
    """scores[r, j] = queries[r, 0:64] · keys[j, 0:64] for r < 4 and j < count. All are addresses of float32; queries
    are contiguous; the strides are bytes from one row to the next."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        queries, keys, stride, count, scores, scores_stride = arguments
        held = [
            [_load(builder, builder.add(queries, _constant(row * HEAD_DIM * 4)), part) for part in PARTS]
            for row in range(4)
        ]
        with cgutils.for_range(builder, count, intp=count.type) as loop:
            key = builder.add(keys, builder.mul(loop.index, stride))
            parts = [_load(builder, key, part) for part in PARTS]
            sums = []
            for query in held:
                total = builder.fmul(query[0], parts[0], flags=FAST)
                for part in PARTS[1:]:
                    product = builder.fmul(query[part], parts[part], flags=FAST)
                    total = builder.fadd(total, product, flags=FAST)
                sums.append(total)
            found = _sums_of_lanes(builder, sums)
            for row in range(4):
                at = builder.add(scores, builder.mul(scores_stride, _constant(row)))
                at = builder.add(at, builder.mul(loop.index, _constant(4)))
                number = builder.extract_element(found, ir.Constant(ir.IntType(32), row))
                builder.store(number, builder.inttoptr(at, FLOAT.as_pointer()), align=4)
        return context.get_dummy_value()

    address = types.int64
    return types.void(address, address, types.int64, types.int64, address, types.int64), generate


def _sums_of_lanes(builder: Any, vectors: list[Any]) -> Any:
    """The sums of four vectors of 16 lanes, as one of four: halves are added until one lane of each is left."""

    def fold(a: Any, b: Any, low: list[int], high: list[int]) -> Any:
        return builder.fadd(_shuffle(builder, a, b, low), _shuffle(builder, a, b, high), flags=FAST)

    low, high = [*range(8), *range(16, 24)], [*range(8, 16), *range(24, 32)]
    a, b, c, d = vectors
    first, second = fold(a, b, low, high), fold(c, d, low, high)
    low = [i + j for i in range(0, 32, 8) for j in range(4)]
    four = fold(first, second, low, [i + 4 for i in low])
    low = [i + j for i in range(0, 16, 4) for j in range(2)]
    two = fold(four, four, low, [i + 2 for i in low])
    low = [*range(0, 8, 2)]
    return fold(two, two, low, [i + 1 for i in low])


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return builder.shuffle_vector(a, b, mask)


def _splat(builder: Any, number: Any) -> Any:
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, one, one, [0] * LANES)


def _constant(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _address(builder: Any, base: Any, part: int) -> Any:
    return builder.inttoptr(builder.add(base, _constant(part * LANES * 4)), VECTOR.as_pointer())


def _load(builder: Any, base: Any, part: int) -> Any:
    return builder.load(_address(builder, base, part), align=4)

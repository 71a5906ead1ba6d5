"""The compiled functions as calls with addresses and sizes. See `compiled` for what they do."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import carray, cfunc, extending, types
from numba.core import cgutils, config

from engine.ops import compiled, compiled_sampling
from engine.ops.functions import EPSILON
from engine.ops.openmp import Launcher, launcher, num_threads, thread_num

_intrinsic: Any = extending.intrinsic  # typed as if it were called as the code that it generates
f32, f64, i32 = np.float32, np.float64, np.int32


@_intrinsic
def _pointer(typing_context: Any, address: Any) -> Any:
    """A void pointer from an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


def _cache_folder() -> Path | None:
    """Where compiled functions are kept. Named by what they are compiled from, because numba itself only notices when
    this file changes. None: nowhere can be written, so they are compiled at each start, which takes seconds."""
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "arpg-serve" / f"kernels-{digest.hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a container's user may have no home
        return None
    return folder if os.access(folder, os.W_OK) else None


_FOLDER = _cache_folder()


def _compile(function: Any) -> Launcher:
    settings: Any = config
    before, settings.CACHE_DIR = settings.CACHE_DIR, str(_FOLDER or "")
    try:
        compile_c = cfunc(types.void(types.CPointer(types.int64)), cache=_FOLDER is not None)
        return launcher(compile_c(function))
    finally:
        settings.CACHE_DIR = before


def _rms_norm(pointer):  # type: ignore[no-untyped-def]
    x, weight, out, rows, dim = carray(pointer, 5)
    compiled.rms_norm(
        thread_num(), num_threads(),
        carray(_pointer(x), (rows, dim), f32), carray(_pointer(weight), (dim,), f32),
        carray(_pointer(out), (rows, dim), f32), f32(EPSILON),
    )  # fmt: skip


def _guided_norm(pointer):  # type: ignore[no-untyped-def]
    x, weight, conditional, unconditional, scale, out, count, rows, dim = carray(pointer, 9)
    compiled.guided_norm(
        thread_num(), num_threads(),
        carray(_pointer(x), (rows, dim), f32), carray(_pointer(weight), (dim,), f32),
        carray(_pointer(conditional), (count,), i32), carray(_pointer(unconditional), (count,), i32),
        carray(_pointer(scale), (count,), f32), carray(_pointer(out), (count, dim), f32), f32(EPSILON),
    )  # fmt: skip


def _embed(pointer):  # type: ignore[no-untyped-def]
    sources, tokens, table, out, rows, slots, ids, dim = carray(pointer, 8)
    compiled.embed(
        thread_num(), num_threads(), carray(_pointer(sources), (rows,), i32), carray(_pointer(tokens), (slots,), i32),
        carray(_pointer(table), (ids, dim), f32), carray(_pointer(out), (rows, dim), f32),
    )  # fmt: skip


def _swiglu(pointer):  # type: ignore[no-untyped-def]
    gate_up, out, rows, hidden = carray(pointer, 4)
    compiled.swiglu(
        thread_num(), num_threads(),
        carray(_pointer(gate_up), (rows, 2 * hidden), f32), carray(_pointer(out), (rows, hidden), f32),
    )  # fmt: skip


def _write(pointer):  # type: ignore[no-untyped-def]
    kv, table, positions, slots, keys, values, rows, width, first, entries, total, heads, head_dim = carray(pointer, 13)
    compiled.write(
        thread_num(), num_threads(),
        carray(_pointer(kv), (rows, width), f32), first,
        carray(_pointer(table), (entries, head_dim // 2, 2), f32), carray(_pointer(positions), (rows,), i32),
        carray(_pointer(slots), (rows,), i32),
        carray(_pointer(keys), (total, heads, head_dim), f32), carray(_pointer(values), (total, heads, head_dim), f32),
    )  # fmt: skip


def _attend(pointer):  # type: ignore[no-untyped-def]
    (
        q, table, positions, starts, visible, block_tables, keys, values, out,
        rows, width, entries, branches, pages, page_size, total, heads, head_dim,
    ) = carray(pointer, 18)  # fmt: skip
    compiled.attend(
        thread_num(), num_threads(),
        carray(_pointer(q), (rows, width), f32), carray(_pointer(table), (entries, head_dim // 2, 2), f32),
        carray(_pointer(positions), (rows,), i32), carray(_pointer(starts), (branches + 1,), i32),
        carray(_pointer(visible), (rows,), i32), carray(_pointer(block_tables), (branches, pages), i32), page_size,
        carray(_pointer(keys), (total, heads, head_dim), f32), carray(_pointer(values), (total, heads, head_dim), f32),
        carray(_pointer(out), (rows, heads * head_dim), f32),
    )  # fmt: skip


def _sample(pointer):  # type: ignore[no-untyped-def]
    logits, temperature, top_k, top_p, uniform, slots, tokens, out, count, vocab, total = carray(pointer, 11)
    compiled_sampling.sample(
        thread_num(), num_threads(), carray(_pointer(logits), (count, vocab), f32),
        carray(_pointer(temperature), (count,), f32), carray(_pointer(top_k), (count,), i32),
        carray(_pointer(top_p), (count,), f32), carray(_pointer(uniform), (count,), f64),
        carray(_pointer(slots), (count,), i32), carray(_pointer(tokens), (total,), i32),
        carray(_pointer(out), (count,), i32),
    )  # fmt: skip


rms_norm = _compile(_rms_norm)
guided_norm = _compile(_guided_norm)
embed = _compile(_embed)
swiglu = _compile(_swiglu)
write = _compile(_write)
attend = _compile(_attend)
sample = _compile(_sample)

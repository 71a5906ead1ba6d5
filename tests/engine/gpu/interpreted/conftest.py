"""Tests that run only where TRITON_INTERPRET is set: see ../test_interpreted.py."""

from __future__ import annotations

import os
from typing import Any

collect_ignore_glob: list[str] = []


def _mend_bfloat16() -> None:
    """The interpreter keeps bfloat16 as its bits. It multiplies these as integers, and cuts digits off instead of
    rounding: both are replaced by what a GPU does."""
    import numpy as np
    import torch
    import triton.language as tl
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    handle: Any = interpreter.TensorHandle
    cast = builder.cast_impl

    def wide(data: Any) -> Any:
        return (data.astype(np.uint32) << 16).view(np.float32)

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        from_type, to_type = source.dtype.scalar, target.scalar
        if (from_type, to_type) == (tl.float32, tl.bfloat16):
            rounded = torch.from_numpy(np.ascontiguousarray(source.data)).to(torch.bfloat16)
            return handle(rounded.view(torch.uint16).numpy().reshape(source.data.shape), to_type)
        if (from_type, to_type) == (tl.bfloat16, tl.float32):
            return handle(wide(source.data), to_type)
        return cast(self, source, target)

    def create_dot(self: Any, a: Any, b: Any, total: Any, *_: Any) -> Any:
        factors = [wide(x.data) if x.dtype.scalar == tl.bfloat16 else x.data for x in (a, b)]
        return handle(np.matmul(*factors, dtype=total.data.dtype) + total.data, total.dtype.scalar)

    builder.cast_impl, builder.create_dot = cast_impl, create_dot


if os.environ.get("TRITON_INTERPRET") == "1":
    _mend_bfloat16()
else:
    collect_ignore_glob.append("test_*.py")

"""Every kernel compiles for an H100 (sm_90) ahead of time, without a GPU, and spills no register."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton", reason="Triton is not installed")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from engine.ops.gpu import attention, embedding, feed_forward, norms, rotary, sampling  # noqa: E402
from engine.ops.gpu.launching import launch  # noqa: E402

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int32: "i32", torch.float64: "fp64"}
HEADS, VOCAB = 16, 16384
HEAD_DIMS = pytest.mark.parametrize("head_dim", [48, 64, 80, 96, 128])


class Compiler:
    """A Launch that compiles instead. spilled: bytes, of each launch."""

    def __init__(self) -> None:
        self.spilled: list[int] = []

    def __call__(
        self, kernel: Any, grid: tuple[int, ...], out: Tensor, *arguments: Tensor | float, **constants: Any
    ) -> None:
        launch(kernel, grid, out, *arguments, **constants)  # on meta tensors it does nothing
        options = {name: constants.pop(name) for name in ("num_warps", "num_stages") if name in constants}
        signature, attributes = dict.fromkeys(constants, "constexpr"), {}
        for index, (name, value) in enumerate(zip(kernel.arg_names, (out, *arguments), strict=False)):
            signature[name] = _type(value)
            if isinstance(value, Tensor) or (value % 16 == 0 and name != "table_width"):  # as a launch specialises
                attributes[index,] = [["tt.divisibility", 16]]
        source = ASTSource(kernel, signature, constants, attributes)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        self.spilled.append(_spilled(compiled.asm["ptx"]))


def _type(value: Tensor | float) -> str:
    if isinstance(value, Tensor):
        return f"*{NAMES[value.dtype]}"
    return "fp32" if isinstance(value, float) else "i32"


def _spilled(ptx: str) -> int:
    """By the first of Triton's assemblers that understands the version."""
    target = re.search(r"\.target (\w+)", ptx)
    assert target is not None
    for assembler in sorted((Path(triton.__file__).parent / "backends/nvidia/bin").glob("ptxas*")):
        command = [assembler, "-v", "--gpu-name", target[1], "-", "-o", "/dev/null"]
        done = subprocess.run(command, input=ptx, capture_output=True, text=True)
        if done.returncode == 0:
            return sum(int(found) for found in re.findall(r"(\d+) bytes spill", done.stderr))
    raise AssertionError(done.stderr)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        patch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # else Triton 3.9 warns
        yield


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    """Each test makes one launch."""
    compiler = Compiler()
    yield compiler
    assert compiler.spilled == [0]


def meta(*size: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(*size, dtype=dtype, device="meta")


def int32(*size: int) -> Tensor:
    return meta(*size, dtype=torch.int32)


@HEAD_DIMS
def test_attention(compiler: Compiler, head_dim: int) -> None:
    keys, table = meta(1000, HEADS, head_dim), meta(50, head_dim // 2, 2, dtype=torch.float32)
    out = attention.paged_attention(
        compiler, meta(1, HEADS * head_dim).expand(8, -1), table, int32(8), keys, keys, tiles=int32(4, 3),
        block_tables=int32(4, 17), visible=int32(8), page_size=16, rows_a_tile=16,
    )  # fmt: skip
    assert out.shape == (8, HEADS * head_dim)


@HEAD_DIMS
def test_write(compiler: Compiler, head_dim: int) -> None:
    keys, dim = meta(1000, HEADS, head_dim), HEADS * head_dim
    table = meta(50, head_dim // 2, 2, dtype=torch.float32)
    rotary.write(compiler, meta(8, 3 * dim)[:, dim:], table, int32(8), int32(8), keys, keys)


def test_embedding(compiler: Compiler) -> None:
    assert embedding.embed(compiler, meta(100, 1024), int32(8), int32(9)).shape == (8, 1024)


def test_rms_norm(compiler: Compiler) -> None:
    assert norms.rms_norm(compiler, meta(8, 1280), meta(1280)).shape == (8, 1280)


def test_guided_norm(compiler: Compiler) -> None:
    scale = meta(4, dtype=torch.float32)
    out = norms.guided_norm(compiler, meta(8, 1280), meta(1280), int32(4), int32(4), scale)
    assert out.shape == (4, 1280)


def test_swiglu(compiler: Compiler) -> None:
    assert feed_forward.swiglu(compiler, meta(8, 5632)).shape == (8, 2816)


@pytest.mark.parametrize(("greedy", "filtered"), [(True, False), (False, False), (False, True)])
def test_sampling(compiler: Compiler, greedy: bool, filtered: bool) -> None:
    wide, precise = meta(8, dtype=torch.float32), meta(8, dtype=torch.float64)
    logits = meta(8, VOCAB, dtype=torch.float32)
    tokens = sampling.sample(
        compiler, logits, wide, int32(8), wide, precise, int32(8), int32(9), greedy=greedy, filtered=filtered
    )
    assert tokens.shape == (8,)

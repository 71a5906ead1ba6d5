"""Runs compiled functions on the OpenMP threads of torch.

numba has thread pools of its own, but a second pool would compete with torch's for the same cores: idle OpenMP threads
spin. torch's threads are those of the libgomp in its wheel, and `GOMP_parallel`, the function that GCC calls for a
parallel region (libgomp's ABI), runs ours on them within about a microsecond.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from llvmlite import binding
from numba import types

_LIBRARY = Path(torch.__file__).parent / "lib" / "libgomp.so.1"

if not _LIBRARY.exists():
    raise ImportError(f"this build of torch has no {_LIBRARY.name}")

_gomp = ctypes.CDLL(str(_LIBRARY))
_parallel = _gomp.GOMP_parallel
_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
_parallel.restype = None

for _name in ("omp_get_thread_num", "omp_get_num_threads"):
    binding.add_symbol(_name, ctypes.cast(getattr(_gomp, _name), ctypes.c_void_p).value)

thread_num = types.ExternalFunction("omp_get_thread_num", types.int32())
"""In compiled code: the number of this thread in its team, from 0."""

num_threads = types.ExternalFunction("omp_get_num_threads", types.int32())
"""In compiled code: the size of the team."""


def parallel(function: int, arguments: int) -> None:
    """Calls the C function at this address, `void f(void *arguments)`, once on each of torch's threads."""
    _parallel(function, arguments, torch.get_num_threads(), 0)


Launcher = Callable[..., None]


def launcher(compiled: Any) -> Launcher:
    """A function that passes its integers to a compiled one, as an array of int64, on each thread."""
    address = compiled.address

    def launch(*values: int) -> None:
        arguments = (ctypes.c_int64 * len(values))(*values)
        parallel(address, ctypes.addressof(arguments))

    return launch

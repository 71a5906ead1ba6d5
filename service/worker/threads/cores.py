"""How many processor cores each thread of the worker computes with.

Each Python thread that runs torch has a team of OpenMP threads of its own. GNU OpenMP counts the threads of all teams
in the process. While there are more of them than cores, no team waits for its next parallel loop by spinning: each of
the thousands of small loops of a step then costs two system calls. On two cores a second team doubles the duration of
the engine's steps, even while that team does nothing. So only engines have teams, which together have no more threads
than there are cores; the codec, palettes and the loading of weights compute with one thread each.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

ONE = 1


def available() -> int:
    """The number of cores that torch would use here; 1 without torch."""
    torch = sys.modules.get("torch")
    return 1 if torch is None else int(torch.get_num_threads())


def compute_with(threads: int) -> None:
    """For the calling thread. Matrix products (MKL) have one number for the whole process, the last that was set: so an
    engine's thread sets its own after all others."""
    if (torch := sys.modules.get("torch")) is not None:
        # The first look copies the number that any thread has set last; without it, the first parallel loop would.
        torch.get_num_threads()
        torch.set_num_threads(threads)


def engine_cores(cores: int, engines: int, *, codec_busy: bool) -> int:
    """How many each engine computes with. While the codec works it has a core for itself: on a core that they shared,
    each parallel loop of a step would wait for the codec's turn to end."""
    return max(1, cores // engines - codec_busy)


def coding_threads(cores: int) -> int:
    """How many threads write picture files beside the codec. On few cores none: the codec's own thread does it, because
    another one would take a core from the engine."""
    return min(8, cores // 4)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """The calling thread computes without a team."""
    threads = available()
    compute_with(ONE)
    try:
        yield
    finally:
        compute_with(threads)

"""Memory that the C library keeps for the next step, and when it gives it back to the system."""

from __future__ import annotations

import contextlib
import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's names for the two settings: M_TRIM_THRESHOLD and M_MMAP_THRESHOLD."""

KEPT = 64 * 2**20
LARGEST = 32 * 2**20
"""glibc accepts no more than this."""


def keep_freed_memory() -> None:
    """For the process: up to KEPT bytes of each arena stay with it, and blocks up to LARGEST come from arenas.

    A decoder allocates and frees a few megabytes in each layer. By default glibc returns them each time, so the system
    has to zero every page again at its next use: a fifth of the time of decoding a small picture. Does nothing where
    the C library is another one.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(TRIM_THRESHOLD, KEPT)
        mallopt(MMAP_THRESHOLD, LARGEST)


def give_back_freed_memory() -> None:
    """For the process, all that it does not use. Large pictures free hundreds of megabytes, which no step needs again;
    the next steps take anew what they need. Takes milliseconds. Does nothing where the C library is another one."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)

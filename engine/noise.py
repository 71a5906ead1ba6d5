"""All randomness of a picture, as a function of (seed, purpose, grid position).

So the same request draws the same tokens on any worker and after a crash, and its noise is independent of that of
other positions, other seeds and other tasks on the same picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

CHOSEN_SEEDS = 2**32
"""Seeds that nobody asked for, random and derived ones, are smaller than this."""


def uniform(seed: int, purpose: str, position: int) -> float:
    """A number in (0, 1), a multiple of 2⁻⁴⁸: below 1 even after float64 rounding of a cumulative sum."""
    return (_hash(seed, purpose, position) >> 16 | 1) / 2**48


def permutation(seed: int, purpose: str, positions: Iterable[int]) -> tuple[int, ...]:
    """The positions in an order that depends only on the arguments."""
    return tuple(sorted(positions, key=lambda position: (_hash(seed, purpose, position), position)))


def image_seed(job_seed: int, index: int) -> int:
    """The seed of a job's image. Image 0 has the job's own, so a returned seed reproduces its image."""
    return job_seed if index == 0 else _hash(job_seed, "image", index) % CHOSEN_SEEDS


def _hash(seed: int, purpose: str, position: int) -> int:
    key = f"{seed}:{purpose}:{position}".encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")

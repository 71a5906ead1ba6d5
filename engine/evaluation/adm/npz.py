"""The .npz files of ADM's evaluation suite: pictures as `arr_0`, uint8 (n, H, W, 3)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

PICTURES = "arr_0"


def write_pictures(path: Path, pictures: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Writes pictures uint8 (H, W, 3) one after another: 50,000 of them are 10 GB, and are never in memory together.
    Not compressed, as numpy.savez. Raises ValueError when they are not as many as the shape says."""
    written = 0
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
        archive.open(f"{PICTURES}.npy", "w", force_zip64=True) as file,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for picture in pictures:
            file.write(np.ascontiguousarray(picture, np.uint8).tobytes())
            written += 1
    if written != shape[0]:
        raise ValueError(f"{written} pictures, not {shape[0]}")

"""Which of the formats a file has, by its first bytes, and what a walk over it tells."""

from __future__ import annotations

from service.tasks.pictures.structure import jpeg, png, webp
from service.tasks.pictures.structure.parts import Structure, StructureError


def inspect(data: bytes, keyword: str) -> Structure:
    """keyword: of the text chunk of a PNG that is kept. Raises StructureError."""
    if data.startswith(png.SIGNATURE):
        return png.inspect(data, keyword.encode("latin-1"))
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.inspect(data)
    if webp.is_webp(data):
        return webp.inspect(data)
    raise StructureError("not_an_image", "this is not a PNG, JPEG or WebP picture (or a damaged one)", status=415)

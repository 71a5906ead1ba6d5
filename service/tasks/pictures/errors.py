"""Why an upload is refused, and how large it may be."""

from __future__ import annotations

from dataclasses import dataclass


class ImageError(ValueError):
    """An upload that can't be used. `field` is the culprit, `code` is for programs, `status` for HTTP."""

    def __init__(self, field: str, code: str, message: str, *, status: int = 422) -> None:
        super().__init__(message)
        self.field = field
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    max_pixels: int
    max_side: int

    def check(self, size: tuple[int, int], field: str) -> None:
        """size: height and width. Raises ImageError."""
        if min(size) < 1:
            raise ImageError(field, "damaged", "the picture says that it has no pixels; save it again")
        if size[0] * size[1] > self.max_pixels or max(size) > self.max_side:
            raise self.exceeded(field)

    def exceeded(self, field: str) -> ImageError:
        bounds = f"at most {self.max_pixels:,} pixels, and {self.max_side:,} a side"
        return ImageError(field, "too_many_pixels", f"the picture is too large: {bounds}; scale it down", status=413)

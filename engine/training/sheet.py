"""Contact sheets: pictures in a grid, rows named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

GAP = 4
CAPTION = 16


def contact_sheet(pictures: Sequence[np.ndarray], columns: int, captions: Sequence[str] | None = None) -> Image.Image:
    """Pictures uint8 (H, W, 3) of one size, row after row; a caption under each where captions are given."""
    height, width = pictures[0].shape[:2]
    cell_height = height + GAP + (CAPTION if captions else 0)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * cell_height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        left, top = GAP + index % columns * (width + GAP), GAP + index // columns * cell_height
        sheet.paste(Image.fromarray(picture), (left, top))
        if captions:
            draw.text((left + width // 2, top + height + 2), captions[index], fill="black", anchor="ma")
    return sheet

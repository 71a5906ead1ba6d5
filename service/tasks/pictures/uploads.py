"""What a plan needs to know of an upload."""

from __future__ import annotations

import numpy as np

from engine.card import ModelCard
from service.tasks.pictures import recipe
from service.tasks.pictures.errors import Limits
from service.tasks.pictures.masks import MaskMode
from service.tasks.pictures.reading import Reading, Upload, read_upload
from service.tasks.pictures.recipe import RecipeError
from service.tasks.task import PictureFacts


def facts_and_files(
    image: bytes | str, mask: bytes | str | None, mask_mode: MaskMode | None, limits: Limits, card: ModelCard
) -> tuple[PictureFacts, dict[str, bytes]]:
    """The facts of an upload, and the PNGs to store, read in this process. Raises ImageError."""
    reading = read_upload(Upload(image=image, mask=mask, mask_mode=mask_mode, grid=card.grid, limits=limits))
    return facts_of(reading, card), reading.blobs


def facts_of(reading: Reading, card: ModelCard) -> PictureFacts:
    """The tokens are those of the picture's recipe, where it can be believed."""
    return PictureFacts(
        size=reading.size, grid=card.grid, fixed_cells=reading.fixed_cells, tokens=_recipe_tokens(reading, card)
    )


def _recipe_tokens(reading: Reading, card: ModelCard) -> np.ndarray | None:
    if reading.recipe is None:
        return None
    try:
        return recipe.tokens_of(recipe.read(reading.recipe), reading.size, reading.digest, card)
    except RecipeError:
        return None

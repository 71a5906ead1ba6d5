"""The client's pictures: opened once, checked, and coded once as the PNGs that are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from engine.card import ModelCard
from service.jobs.spec import Size
from service.tasks.pictures import images, recipe
from service.tasks.pictures.images import ImageError, Limits, MaskMode
from service.tasks.pictures.recipe import RecipeError
from service.tasks.task import PictureFacts


@dataclass(frozen=True, slots=True)
class OpenedPicture:
    """pixels uint8 (H, W, 3); mask: of its transparency, where that is asked for; recipe: the text of its chunk."""

    pixels: np.ndarray
    mask: np.ndarray | None
    recipe: str | None

    @property
    def size(self) -> Size:
        return self.pixels.shape[0], self.pixels.shape[1]


def read_upload(
    image: bytes | str, mask: bytes | str | None, mask_mode: MaskMode | None, limits: Limits, card: ModelCard
) -> tuple[PictureFacts, dict[str, bytes]]:
    """The facts of an upload, and the PNGs to store. mask_mode: None: the task takes no mask. Blocks. Raises
    ImageError."""
    picture = open_picture(image, limits, alpha_mask=mask_mode == "alpha" and mask is None)
    blobs = {"image": images.encode(picture.pixels, "png", level=1)}
    selected = None
    if mask_mode is not None:
        opened = picture.mask if mask is None else open_mask(mask, mask_mode, limits)
        selected = check_mask(opened, picture.size)
        blobs["mask"] = images.encode(selected, "png")
    return _facts(picture, selected, card), blobs


def open_picture(image: bytes | str, limits: Limits, *, alpha_mask: bool = False) -> OpenedPicture:
    """A file, or its base64. alpha_mask: its transparent pixels are a mask. Raises ImageError."""

    def read(opened: Image.Image) -> OpenedPicture:
        mask = images.mask_reader("image", "alpha")(opened) if alpha_mask else None
        return OpenedPicture(images.rgb(opened), mask, recipe.text_in(opened))

    return images.decode(_bytes(image, "image"), "image", limits, read)


def open_mask(mask: bytes | str, mode: MaskMode, limits: Limits) -> np.ndarray:
    """bool (H, W), True where the picture is drawn again. Raises ImageError."""
    return images.decode_mask(_bytes(mask, "mask"), "mask", mode, limits)


def check_mask(mask: np.ndarray | None, size: Size) -> np.ndarray:
    """The mask of a picture of this size. Raises ImageError."""
    if mask is None:
        raise ImageError("mask", "missing", "is needed, unless mask_mode is alpha and the picture is transparent")
    images.check_mask(mask, size)
    return mask


def _facts(picture: OpenedPicture, mask: np.ndarray | None, card: ModelCard) -> PictureFacts:
    """The tokens are those of the picture's recipe, where it can be believed."""
    return PictureFacts(size=picture.size, grid=card.grid, mask=mask, tokens=_recipe_tokens(picture, card))


def _recipe_tokens(picture: OpenedPicture, card: ModelCard) -> np.ndarray | None:
    if picture.recipe is None:
        return None
    try:
        return recipe.tokens_of(recipe.read(picture.recipe), picture.pixels, card)
    except RecipeError:
        return None


def _bytes(picture: bytes | str, field: str) -> bytes:
    return images.from_base64(picture, field) if isinstance(picture, str) else picture

"""Pictures around a drawing: what is known before it, what is shown during it, what is kept after it.

Plain functions that block: they run in a thread beside the engine's.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from engine.editing.masks import composite, fit, known_tokens, token_mask
from engine.editing.outpainting import OutpaintGeometry, Padding, assemble, outpaint_geometry
from engine.request import EMPTY, Request, RequestError
from service.tasks import recipe
from service.tasks.images import encode
from service.tasks.recipe import RecipeError

if TYPE_CHECKING:
    from engine.card import ModelCard
    from engine.codec.codec import Codec

log = logging.getLogger(__name__)

# Key of a payload → field of a request; the class, the seed and the fixed tokens are read apart.
_APART = {"class_label", "seed", "fixed_tokens", "replayed_tokens", "window"}
_KEYS = {"rope_scaling": "extension"}
SETTINGS = {_KEYS.get(f.name, f.name): f.name for f in fields(Request) if f.name not in _APART}
PAIRS = ("order", "grid")  # lists in JSON


class BadUpload(Exception):
    """A stored upload is missing or cannot be used."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Source(Protocol):
    """The picture that a drawing starts from, at its own size."""

    @property
    def canvas(self) -> np.ndarray:
        """int32 (rows, cols): the tokens that are kept, EMPTY where it is drawn."""

    def compose(self, drawn: np.ndarray) -> np.ndarray:
        """The finished picture uint8 (H, W, 3), with what was drawn on the canvas, uint8 (h, w, 3)."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What an inpainting starts from."""

    image: np.ndarray  # uint8 (H, W, 3)
    mask: np.ndarray  # bool (H, W), True: repaint
    redrawn: np.ndarray  # bool (rows, cols): the mask snapped to tokens
    tokens: np.ndarray  # int32 (rows, cols): the picture, fitted and encoded
    feather: int = 0
    seamless: bool = False

    @property
    def known(self) -> dict[int, int]:
        """Grid position → token of what is kept."""
        return known_tokens(self.tokens, self.redrawn)

    @property
    def canvas(self) -> np.ndarray:
        return np.where(self.redrawn, np.int32(EMPTY), self.tokens)

    def compose(self, drawn: np.ndarray) -> np.ndarray:
        return composite(self.image, drawn, self.mask, self.feather, smooth=self.seamless)


@dataclass(frozen=True, slots=True)
class Outpainting:
    """What an outpainting starts from."""

    image: np.ndarray  # uint8 (H, W, 3)
    geometry: OutpaintGeometry
    tokens: np.ndarray  # int32 (geometry.cells): the picture, fitted and encoded
    seamless: bool = False

    @property
    def canvas(self) -> np.ndarray:
        return self.geometry.canvas(self.tokens)

    def compose(self, drawn: np.ndarray) -> np.ndarray:
        return assemble(self.image, drawn, self.geometry, smooth=self.seamless)


def read_upload(
    image_png: bytes | None,
    mask_png: bytes | None,
    card: ModelCard,
    codec: Codec,
    feather: int = 0,
    tokens: np.ndarray | None = None,
    *,
    seamless: bool = False,
) -> Upload:
    """tokens int32 (rows, cols): the picture's, where they are known already, on whatever grid. Raises BadUpload."""
    image, mask = read_picture(image_png), _opened(mask_png, "1")
    if mask.shape != image.shape[:2]:
        raise BadUpload("upload_damaged", "picture and mask differ in size")
    redrawn = token_mask(mask, card.grid if tokens is None else (tokens.shape[0], tokens.shape[1]))
    if not redrawn.any():
        raise BadUpload("upload_damaged", "the mask selects nothing")
    if tokens is None:
        tokens = tokens_of(image, image_png, card.grid, card, codec)
    return Upload(image, mask, redrawn, tokens, feather, seamless)


def read_outpainting(
    image_png: bytes | None,
    asked: Padding,
    card: ModelCard,
    codec: Codec,
    tokens: np.ndarray | None = None,
    *,
    seamless: bool = False,
) -> Outpainting:
    """asked: pixels on each side. tokens: as for read_upload, where they have the grid that the picture gets here.
    Raises BadUpload."""
    image = read_picture(image_png)
    height, width = image.shape[:2]
    try:
        geometry = outpaint_geometry((height, width), asked, grid=card.grid, stride=card.stride)
    except RequestError as error:
        raise BadUpload("upload_damaged", str(error)) from error
    if tokens is None or tokens.shape != geometry.cells:
        tokens = tokens_of(image, image_png, geometry.cells, card, codec)
    return Outpainting(image, geometry, tokens, seamless)


def read_picture(png: bytes | None) -> np.ndarray:
    """uint8 (H, W, 3) of a stored upload. Raises BadUpload."""
    return _opened(png, "RGB")


def tokens_of(image: np.ndarray, png: bytes | None, grid: tuple[int, int], card: ModelCard, codec: Codec) -> np.ndarray:
    """int32 grid of a picture uint8 (H, W, 3), fitted to it: those that its PNG tells of, where they are to be
    believed, else the tokenizer's."""
    text = None if png is None else recipe.text_of(png)
    if text is not None:
        try:
            return recipe.tokens_of(recipe.read(text), image, card, grid)
        except RecipeError as error:
            log.info("an upload with a recipe is encoded again: %s", error)
    return codec.encode(fit(image, (grid[0] * card.stride, grid[1] * card.stride)))


def _opened(png: bytes | None, mode: str) -> np.ndarray:
    if png is None:
        raise BadUpload("upload_missing", "the uploaded picture or its mask is no longer stored")
    try:
        return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]).convert(mode))
    except Exception as error:  # Pillow raises nearly everything
        raise BadUpload("upload_damaged", f"a stored upload cannot be read: {error}") from error


def request_of(payload: Mapping[str, Any], image: int, known: Mapping[int, int]) -> Request:
    settings = {name: payload[key] for key, name in SETTINGS.items() if payload.get(key) is not None}
    settings |= {name: tuple(settings[name]) for name in PAIRS if name in settings}
    return Request(class_label=payload["class_label"], seed=payload["seeds"][image], fixed_tokens=known, **settings)


@dataclass(frozen=True, slots=True)
class Picture:
    png: bytes
    width: int
    height: int


def finished(
    tokens: np.ndarray,
    source: Source | None,
    codec: Codec,
    card: ModelCard,
    request: Request,
    class_name: str | None,
    known: np.ndarray | None = None,
    windows: Sequence[tuple[int, int]] = (),
    forks: Sequence[tuple[int, int]] = (),
) -> Picture:
    """The picture of a full token map int (rows, cols), as a lossless PNG that tells its recipe.

    request: what was drawn; the template where there are windows. known bool (rows, cols): the tokens that were given;
    None: those of the source, or else of the request. windows: row and column of each, in drawing order, where the
    canvas was drawn so. forks: see recipe.forked.
    """
    drawn = codec.decode(tokens)
    shown = drawn if source is None else source.compose(drawn)
    if known is None and source is not None:
        known = source.canvas != EMPTY
    told = recipe.write(
        shown,
        tokens,
        request,
        card,
        class_name=class_name,
        known=known,
        windows=windows,
        forks=forks,
        composited=shown is not drawn,
    )
    png = encode(shown, "png", text={recipe.KEYWORD: told})
    return Picture(png, width=shown.shape[1], height=shown.shape[0])

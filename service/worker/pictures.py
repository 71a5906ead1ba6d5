"""Pictures around a drawing: what is known before it, what is shown during it, what is kept after it.

Plain functions that block: they run in a thread beside the engine's.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from engine.card import SETTINGS
from engine.drawing import UNKNOWN
from engine.inpainting import composite, fit, known_tokens, token_mask
from engine.request import Request
from service.images import encode

if TYPE_CHECKING:
    from engine.card import ModelCard
    from engine.codec import Codec

NEUTRAL = 128
PREVIEW_QUALITY = 80
# What a finished picture says about how it was made: enough to draw it again.
RECIPE = ("task", "model", "class_label", "class_name", *SETTINGS)


class BadUpload(Exception):
    """A stored upload is missing or cannot be used."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Upload:
    """What an inpainting starts from, at the upload's own size."""

    image: np.ndarray  # uint8 (H, W, 3)
    mask: np.ndarray  # bool (H, W), True: repaint
    redrawn: np.ndarray  # bool (rows, cols): the mask snapped to tokens
    tokens: np.ndarray  # int32 (rows, cols): the picture, fitted and encoded

    @property
    def known(self) -> dict[int, int]:
        """Grid position → token of what is kept."""
        return known_tokens(self.tokens, self.redrawn)


def read_upload(image_png: bytes | None, mask_png: bytes | None, card: ModelCard, codec: Codec) -> Upload:
    """Raises BadUpload."""
    if image_png is None or mask_png is None:
        raise BadUpload("upload_missing", "the uploaded picture or its mask is no longer stored")
    try:
        image = np.asarray(Image.open(io.BytesIO(image_png), formats=["PNG"]).convert("RGB"))
        mask = np.asarray(Image.open(io.BytesIO(mask_png), formats=["PNG"]).convert("1"))
    except Exception as error:  # Pillow raises nearly everything
        raise BadUpload("upload_damaged", f"a stored upload cannot be read: {error}") from error
    if mask.shape != image.shape[:2]:
        raise BadUpload("upload_damaged", "picture and mask differ in size")
    redrawn = token_mask(mask, card.grid)
    if not redrawn.any():
        raise BadUpload("upload_damaged", "the mask selects nothing")
    tokens = codec.encode(fit(image, (card.height, card.width)))
    return Upload(image, mask, redrawn, tokens)


def request_of(payload: Mapping[str, Any], image: int, known: Mapping[int, int]) -> Request:
    settings = {name: payload[name] for name in SETTINGS if payload.get(name) is not None}
    if "order" in settings:
        settings["order"] = tuple(settings["order"])
    label, seed = payload["class_label"], payload["seeds"][image]
    return Request(class_label=label, seed=seed, known=known, task=payload["task"], **settings)


@dataclass(frozen=True, slots=True)
class Picture:
    png: bytes
    width: int
    height: int


def finished(
    tokens: np.ndarray, upload: Upload | None, codec: Codec, payload: Mapping[str, Any], image: int
) -> Picture:
    """The picture of a full token map int (rows, cols), as a lossless PNG that tells its recipe."""
    drawn = codec.decode(tokens)
    if upload is not None:
        drawn = composite(upload.image, drawn, upload.mask, payload["feather"])
    recipe = {"seed": payload["seeds"][image], **{name: payload.get(name) for name in RECIPE}}
    text = PngInfo()
    text.add_text("arpg", json.dumps(recipe))
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "PNG", pnginfo=text)
    return Picture(file.getvalue(), width=drawn.shape[1], height=drawn.shape[0])


def preview(tokens: np.ndarray, codec: Codec) -> str:
    """Base64 of a JPEG: the picture so far, grey where nothing is drawn. tokens int (rows, cols), UNKNOWN there."""
    undrawn = tokens == UNKNOWN
    picture = codec.decode(_filled(tokens, undrawn))
    cells = np.kron(undrawn, np.ones((codec.stride, codec.stride), dtype=bool))
    shown = np.where(cells[..., None], np.uint8(NEUTRAL), picture)
    return base64.b64encode(encode(shown, "jpeg", PREVIEW_QUALITY)).decode()


def _filled(tokens: np.ndarray, undrawn: np.ndarray) -> np.ndarray:
    """Undrawn cells take the nearest drawn token: the decoder looks across cells."""
    holes, drawn = np.argwhere(undrawn), np.argwhere(~undrawn)
    if not len(holes) or not len(drawn):
        return np.maximum(tokens, 0)
    nearest = ((holes[:, None] - drawn[None]) ** 2).sum(-1).argmin(1)
    filled = tokens.copy()
    filled[undrawn] = tokens[tuple(drawn[nearest].T)]
    return filled

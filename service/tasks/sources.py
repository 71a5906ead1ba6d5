"""What a job's pictures start from: the uploads and the tokens that its payload names.

Plain functions that block, as in pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.editing.masks import fit, kept
from engine.editing.outpainting import SIDES, Padding
from engine.request import EMPTY
from service.tasks.inputs import Source, read_outpainting, read_picture, read_upload, tokens_of

if TYPE_CHECKING:
    from engine.card import ModelCard
    from engine.codec.codec import Codec


@dataclass(frozen=True, slots=True)
class Variation:
    """A picture of which some tokens are kept, and no pixels."""

    size: tuple[int, int]  # height and width of the picture
    canvas: np.ndarray  # int32 (rows, cols), EMPTY where it is drawn anew

    def compose(self, drawn: np.ndarray) -> np.ndarray:
        return fit(drawn, self.size)


def source_of(payload: Mapping[str, Any], uploads: Mapping[str, bytes | None], card: ModelCard, codec: Codec) -> Source:
    """Raises BadUpload."""
    task, image = payload["task"], uploads.get("image")
    given = payload.get("tokens")
    tokens = None if given is None else np.array(given, dtype=np.int32)
    if task == "inpaint":
        mask, seamless = uploads.get("mask"), payload["seamless"]
        return read_upload(image, mask, card, codec, payload["feather"], tokens, seamless=seamless)
    if task == "outpaint":
        asked = Padding(**{side: payload[side] for side in SIDES})
        return read_outpainting(image, asked, card, codec, tokens, seamless=payload["seamless"])
    return read_variation(image, payload["keep_seed"], payload["keep"], card, codec, tokens)


def read_variation(
    image_png: bytes | None, seed: int, share: float, card: ModelCard, codec: Codec, tokens: np.ndarray | None = None
) -> Variation:
    """seed and share: which tokens are kept. tokens int32 (rows, cols): the picture's, where they are known already.
    Raises BadUpload."""
    image = read_picture(image_png)
    if tokens is None:
        tokens = tokens_of(image, image_png, card.grid, card, codec)
    keep = kept(seed, share, (tokens.shape[0], tokens.shape[1]))
    return Variation((image.shape[0], image.shape[1]), np.where(keep, tokens, np.int32(EMPTY)))

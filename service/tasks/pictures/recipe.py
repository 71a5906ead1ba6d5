"""What a picture says of itself: how it was drawn and as which tokens, in a text chunk of its PNG.

Anybody can write such a chunk, so it is a claim and no signature. It is read strictly and within bounds, and holds only
for the very pixels that it was written with.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.card import SETTINGS, ModelCard
from engine.request import MAX_SEED, Request, RopeScaling
from service.jobs.packing import PackingError, pack_bits, pack_tokens, unpack_bits, unpack_tokens
from service.jobs.spec import MAX_PROMPT, Sampling, Size
from service.tasks.pictures import images

KEYWORD, MAX_TEXT = images.KEYWORD, images.MAX_TEXT
MAX_TOKENS = 2**16
MAX_FORKS = 64

Name = Annotated[str, Field(pattern=r"^[!-~]{0,100}$")]
Position = Annotated[int, Field(ge=0, lt=MAX_TOKENS)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Side = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Prompt = Annotated[str, Field(max_length=MAX_PROMPT)]


def _absent(value: object) -> bool:
    return value is None


class RecipeError(ValueError):
    """There is no recipe, or none to be believed; the message says why."""


class _Sheet(BaseModel):
    """The chunk: JSON. A setting is null where it means nothing to the model, or is as when left out."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: Literal[1] = 1
    model: Name
    weights: Name
    tokenizer: Name
    task: Name
    class_label: int | None
    class_name: Annotated[str, Field(max_length=1000)] | None
    prompt: Prompt | None = Field(None, exclude_if=_absent)
    """Not written if there is none: readers that know no prompts refuse what they don't know. So is the next."""
    negative_prompt: Prompt | None = Field(None, exclude_if=_absent)
    seed: Seed
    steps: int | None
    schedule: Name | None
    guidance_scale: float | None
    guidance_schedule: Name | None
    guidance_interval: int | None
    content_attention: Name | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    order: Annotated[list[Position], Field(max_length=MAX_TOKENS)] | None
    prefill: Literal["causal"] | None = None
    guide_known: Literal[True] | None = None
    """Jobs draw with this value and the one of prefill alone."""
    extension: RopeScaling | None = None
    forks: Annotated[list[tuple[int, Seed]], Field(max_length=MAX_FORKS)]
    """Until step …, it was drawn with seed …; then with the next, and at last with its own."""
    grid: tuple[Side, Side]
    windows: Annotated[list[tuple[Position, Position]], Field(max_length=MAX_TOKENS)]
    """Where each lies, row and column, in drawing order; none: the whole grid at once."""
    known: str | None
    """Which tokens were given rather than drawn: base64 of a bit each, row-major, the highest bit first."""
    tokens: str
    """Base64 of zlib of all tokens, row-major, little-endian, 16 or 32 bits each."""
    composited: bool
    """Some pixels are another picture's, not what the tokens decode to."""
    pixels: str


_NOT_SETTINGS = {"fixed_tokens", "replayed_tokens", "grid", "window", "prompt", "negative_prompt"}
"""Fields of a request that follow from the canvas, or from the job's texts."""
_KEYS = {"rope_scaling": "extension", "guide_fixed_tokens": "guide_known"}
"""Request fields with another name in the recipe."""
_OF_REQUEST = {
    key: f.name
    for f in fields(Request)
    if (key := _KEYS.get(f.name, f.name)) in _Sheet.model_fields and f.name not in _NOT_SETTINGS
}
"""Key in the recipe → field of the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """tokens int32 (rows, cols); known bool (rows, cols): given, not drawn; windows, forks, composited and pixels: as
    in the chunk. weights and tokenizer are fingerprints, as in a model's card."""

    model: str
    weights: str
    tokenizer: str
    task: str
    class_label: int | None
    class_name: str | None
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int
    sampling: Sampling
    rope_scaling: RopeScaling | None
    tokens: np.ndarray
    known: np.ndarray
    windows: tuple[tuple[int, int], ...] = ()
    forks: tuple[tuple[int, int], ...] = ()
    composited: bool = False
    pixels: str

    def is_of(self, pixels: np.ndarray) -> bool:
        """Was it written with these pixels, uint8 (H, W, 3)?"""
        return self.pixels == digest(pixels)


def write(
    pixels: np.ndarray,
    tokens: np.ndarray,
    request: Request,
    card: ModelCard,
    *,
    class_name: str | None,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    known: np.ndarray | None = None,
    windows: Sequence[tuple[int, int]] = (),
    forks: Sequence[tuple[int, int]] = (),
    composited: bool = False,
) -> str:
    """The chunk of a picture uint8 (H, W, 3) drawn as tokens int (rows, cols). known bool (rows, cols): None is those
    of the request."""
    if known is None:
        known = np.zeros(tokens.shape, dtype=bool)
        known.flat[list(request.fixed_tokens)] = True
    settings = {key: getattr(request, name) for key, name in _OF_REQUEST.items()}
    settings |= dict.fromkeys(set(SETTINGS) - set(card.settings))
    if settings["order"] is not None:
        settings["order"] = list(settings["order"])
    sheet = _Sheet(
        model=card.name,
        weights=card.weights,
        tokenizer=card.tokenizer,
        class_name=class_name,
        prompt=prompt,
        negative_prompt=negative_prompt,
        **settings,
        forks=list(forks),
        grid=(tokens.shape[0], tokens.shape[1]),
        windows=list(windows),
        known=pack_bits(known) if known.any() else None,
        tokens=pack_tokens(tokens),
        composited=composited,
        pixels=digest(pixels),
    )
    return sheet.model_dump_json(ensure_ascii=True)


def read(text: str | None) -> Recipe:
    """Raises RecipeError."""
    if text is None:
        raise RecipeError("it carries no recipe")
    if len(text) > MAX_TEXT:
        raise RecipeError(f"its recipe is longer than {MAX_TEXT:,} characters")
    try:
        sheet = _Sheet.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "its text"
        place = place if place.isprintable() and len(place) <= 100 else "a field"  # it is a stranger's, and for logs
        raise RecipeError(f"its recipe can't be read: {place}: {first['msg']}") from None
    rows, cols = sheet.grid
    if rows * cols > MAX_TOKENS:
        raise RecipeError(f"its recipe tells of {rows}×{cols} tokens; at most {MAX_TOKENS:,}")
    return Recipe(
        model=sheet.model,
        weights=sheet.weights,
        tokenizer=sheet.tokenizer,
        task=sheet.task,
        class_label=sheet.class_label,
        class_name=sheet.class_name,
        prompt=sheet.prompt,
        negative_prompt=sheet.negative_prompt,
        seed=sheet.seed,
        sampling=Sampling(**{name: getattr(sheet, name) for name in SETTINGS}),
        rope_scaling=sheet.extension,
        tokens=_tokens(sheet),
        known=_known(sheet),
        windows=tuple(sheet.windows),
        forks=tuple(sheet.forks),
        composited=sheet.composited,
        pixels=sheet.pixels,
    )


def text_of(file: bytes) -> str | None:
    """The chunk that a PNG carries, unread; None where there is none, or the file is none. Only the header is looked
    at: check the file's pixels and size elsewhere."""
    try:
        with Image.open(io.BytesIO(file), formats=["PNG"]) as picture:
            return images.text_in(picture)
    except Exception:  # Pillow raises nearly everything
        return None


def tokens_of(recipe: Recipe, size: Size, pixels: str | None, card: ModelCard) -> np.ndarray:
    """The tokens int32 (rows, cols) of a picture, as if this model's tokenizer had just encoded it at its own size
    (height, width). pixels: its digest. Raises RecipeError where they can't be taken over."""
    rows, cols = recipe.tokens.shape
    if not recipe.tokenizer or recipe.tokenizer != card.tokenizer:
        raise RecipeError("its tokens are another tokenizer's")
    if size != (rows * card.stride, cols * card.stride):
        raise RecipeError(f"it is not of the size of {rows}×{cols} tokens, and has to be fitted")
    if recipe.tokens.max() >= card.codebook_size:
        raise RecipeError(f"its recipe has a token that is not in the codebook of {card.codebook_size}")
    if recipe.pixels != pixels:
        raise RecipeError("its pixels have changed since its recipe was written")
    return recipe.tokens


def forked(forks: Sequence[tuple[int, int]], seed: int, step: int) -> tuple[tuple[int, int], ...]:
    """The forks of a picture that shares the first steps of one with these forks and this seed."""
    earlier = tuple(fork for fork in forks if fork[0] < step)
    later = [seed_until for until, seed_until in forks if until >= step]
    return (*earlier, (step, later[0] if later else seed))


def digest(pixels: np.ndarray) -> str:
    """Of a picture uint8 (H, W, 3): its size and every pixel."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _tokens(sheet: _Sheet) -> np.ndarray:
    try:
        return unpack_tokens(sheet.tokens, sheet.grid)
    except PackingError as error:
        raise RecipeError(str(error)) from None


def _known(sheet: _Sheet) -> np.ndarray:
    if sheet.known is None:
        return np.zeros(sheet.grid, dtype=bool)
    try:
        return unpack_bits(sheet.known, sheet.grid)
    except PackingError as error:
        raise RecipeError(str(error)) from None

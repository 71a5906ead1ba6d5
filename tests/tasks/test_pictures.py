"""Pictures around a drawing: what is known before it, and what is kept and told after it."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import pytest

from engine.codec.codec import Codec
from engine.editing.outpainting import Padding
from engine.request import EMPTY
from service.tasks import recipe
from service.tasks.images import encode
from service.tasks.inputs import BadUpload, finished, read_outpainting, read_upload, request_of
from tests.support.api import CARD, noise, png

MODEL = dataclasses.replace(CARD, weights="w" * 16, tokenizer="t" * 16)  # 4×4 tokens of 8×8 pixels, 8 codes
SIZE = (32, 32)
PAYLOAD: dict[str, Any] = {
    "task": "inpaint", "model": "hand", "class_label": 2, "class_name": "torus", "n": 2, "seed": 5, "seeds": [5, 77],
    "steps": 3, "schedule": "cosine", "guidance_scale": 2.0, "guidance_schedule": "constant", "order": None,
}  # fmt: skip


class FakeCodec:
    """Decodes a token to a flat patch, and encodes to 7s; counts its encodings."""

    stride = 8
    encoded = 0

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        return np.kron(tokens[..., None], np.full((8, 8, 3), 30)).astype(np.uint8)

    def encode(self, image: np.ndarray) -> np.ndarray:
        self.encoded += 1
        return np.full((image.shape[0] // 8, image.shape[1] // 8), 7, dtype=np.int32)


CODEC = cast(Codec, FakeCodec())
TOKENS = np.arange(16, dtype=np.int32).reshape(4, 4) % 8


FIRST, SECOND = ((request_of(PAYLOAD, image, {}), "torus") for image in (0, 1))


def corner(size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[:3, :5] = True
    return mask


def test_a_finished_picture_carries_what_draws_it_again() -> None:
    made = finished(TOKENS, None, CODEC, MODEL, *SECOND, windows=[(0, 0), (0, 2)], forks=[(4, 9)])
    assert (made.width, made.height) == (32, 32)
    told = recipe.read(recipe.text_of(made.png))
    assert told.request == SECOND[0]
    assert (told.request.seed, told.request.schedule, told.class_name) == (77, "cosine", "torus")
    assert (told.windows, told.forks, told.composited) == (((0, 0), (0, 2)), ((4, 9),), False)
    assert np.array_equal(told.tokens, TOKENS)
    assert not told.known.any()
    assert told.is_of(CODEC.decode(TOKENS))
    varied = finished(TOKENS, None, CODEC, MODEL, request_of(PAYLOAD, 0, {0: 0, 9: 1}), "torus")
    assert np.flatnonzero(recipe.read(recipe.text_of(varied.png)).known).tolist() == [0, 9]


def test_an_inpainted_picture_says_which_tokens_were_given_and_that_pixels_are_anothers() -> None:
    image, mask = noise(50, 70), corner((50, 70))
    upload = read_upload(png(image), png(mask), MODEL, CODEC, 2)
    assert upload.canvas[0, 0] == EMPTY
    assert (upload.canvas == 7).sum() == 15
    assert dict(zip(range(1, 16), [7] * 15, strict=True)) == upload.known
    made = finished(TOKENS, upload, CODEC, MODEL, *FIRST)
    assert (made.width, made.height) == (70, 50)
    told = recipe.read(recipe.text_of(made.png))
    assert told.composited
    assert np.array_equal(told.known, upload.canvas != EMPTY)
    assert told.is_of(upload.compose(CODEC.decode(TOKENS)))
    hard = dataclasses.replace(upload, feather=0).compose(CODEC.decode(TOKENS))
    assert np.array_equal(hard[~mask], image[~mask])
    assert not told.is_of(hard)
    smooth = dataclasses.replace(upload, seamless=True).compose(CODEC.decode(TOKENS))
    assert np.array_equal(smooth[~mask], image[~mask])
    assert not told.is_of(smooth)


def test_an_outpainting_knows_the_picture_and_keeps_it() -> None:
    image = noise(20, 30)
    source = read_outpainting(png(image), Padding(right=7), MODEL, CODEC)
    assert source.canvas.shape == (4, 8)  # 5 pixels a token: two more
    assert np.array_equal(source.canvas, [[7] * 6 + [EMPTY] * 2] * 4)
    tokens = np.where(source.canvas == EMPTY, 3, source.canvas)
    made = finished(tokens, source, CODEC, MODEL, *FIRST)
    assert (made.width, made.height) == (40, 20)
    shown = source.compose(CODEC.decode(tokens))
    assert np.array_equal(shown[:, :30], image)
    assert (shown[:, 33:] == 90).all()
    told = recipe.read(recipe.text_of(made.png))
    assert np.array_equal(told.known, source.canvas != EMPTY)
    assert told.is_of(shown)


def test_an_upload_that_tells_its_tokens_is_not_encoded_again() -> None:
    codec = FakeCodec()
    made = finished(TOKENS, None, cast(Codec, codec), MODEL, *FIRST)
    pixels = codec.decode(TOKENS)
    mask = png(corner(SIZE))
    again = read_upload(made.png, mask, MODEL, cast(Codec, codec))
    assert codec.encoded == 0
    assert np.array_equal(again.tokens, TOKENS)
    wider = read_outpainting(made.png, Padding(left=1), MODEL, cast(Codec, codec))
    assert codec.encoded == 0
    assert np.array_equal(wider.tokens, TOKENS)

    text = recipe.text_of(made.png) or ""
    pixels[5, 5, 1] ^= 1
    strangers = dataclasses.replace(MODEL, tokenizer="s" * 16)
    for count, (file, card) in enumerate(
        [
            (encode(pixels, "png", text={recipe.KEYWORD: text}), MODEL),  # edited
            (made.png, strangers),
            (encode(CODEC.decode(TOKENS), "png", text={recipe.KEYWORD: "{}"}), MODEL),
            (encode(CODEC.decode(TOKENS), "png"), MODEL),
        ],
        start=1,
    ):
        assert (read_upload(file, mask, card, cast(Codec, codec)).tokens == 7).all()
        assert codec.encoded == count


def test_tokens_that_are_known_already_are_taken_over_whatever_the_pictures_size() -> None:
    codec = FakeCodec()
    image, mask = png(noise(50, 70)), png(corner((50, 70)))
    assert np.array_equal(read_upload(image, mask, MODEL, cast(Codec, codec), 0, TOKENS).tokens, TOKENS)
    wide = np.zeros((4, 6), dtype=np.int32)  # 50×70 pixels are 4×6 tokens here
    assert np.array_equal(read_outpainting(image, Padding(up=9), MODEL, cast(Codec, codec), wide).tokens, wide)
    assert codec.encoded == 0
    assert (read_outpainting(image, Padding(up=9), MODEL, cast(Codec, codec), TOKENS).tokens == 7).all()


@pytest.mark.parametrize(
    ("image", "mask", "code"),
    [
        (None, png(corner(SIZE)), "upload_missing"),
        (png(noise(*SIZE)), None, "upload_missing"),
        (b"\x89PNG", png(corner(SIZE)), "upload_damaged"),
        (png(noise(*SIZE)), png(corner((32, 31))), "upload_damaged"),
        (png(noise(*SIZE)), png(np.zeros(SIZE, dtype=bool)), "upload_damaged"),
    ],
)
def test_a_stored_upload_that_cannot_be_used_says_why(image: bytes | None, mask: bytes | None, code: str) -> None:
    with pytest.raises(BadUpload) as caught:
        read_upload(image, mask, MODEL, CODEC)
    assert caught.value.code == code


def test_a_stored_picture_without_padding_cannot_be_outpainted() -> None:
    with pytest.raises(BadUpload, match="left"):
        read_outpainting(png(noise(8, 8)), Padding(), MODEL, CODEC)


def test_a_payload_becomes_the_request_that_it_says() -> None:
    request = request_of(PAYLOAD | {"order": [3, 1], "top_k": 4, "temperature": None}, 1, {0: 6})
    assert (request.order, request.top_k, request.temperature, request.task) == ((3, 1), 4, 1.0, "inpaint")
    assert (request.class_label, request.seed, dict(request.fixed_tokens)) == (2, 77, {0: 6})

"""The codec decodes as published wherever it computes, and on a GPU computes beside the engine."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.codec.codec import Codec
from engine.codec.placement import OnCpu
from engine.codec.vq import VQConfig, VQModel

CONFIG = VQConfig(
    codebook_size=40,
    channels=32,
    channel_mult=(1, 1, 2),
    z_channels=32,
    encoder_res_blocks=1,
    decoder_res_blocks=1,
    norm_groups=4,
)
RNG = np.random.default_rng(0)
SHAPES = [(4, 4), (3, 7), (1, 1)]


class FakeGpu(OnCpu):
    """The GPU's precision; refuses what happens outside its stream."""

    dtype = torch.bfloat16
    inside = False
    downloads = 0

    @contextmanager
    def working(self) -> Iterator[None]:
        self.inside = True
        yield
        self.inside = False

    def upload(self, array: np.ndarray) -> Tensor:
        assert self.inside
        return super().upload(array)

    def download(self, tensor: Tensor) -> np.ndarray:
        assert self.inside
        self.downloads += 1
        return super().download(tensor)


@pytest.fixture
def tokenizer() -> VQModel:
    torch.manual_seed(0)
    return VQModel(CONFIG).eval()


def published(tokenizer: VQModel, tokens: np.ndarray) -> np.ndarray:
    """Pictures (n, H, W, 3) in levels of uint8, not rounded."""
    with torch.inference_mode():
        pictures = copy.deepcopy(tokenizer).decode(torch.from_numpy(tokens))
    return (127.5 * pictures + 128).clamp(0, 255).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_pictures_decoded_together_are_as_published(tokenizer: VQModel, shape: tuple[int, int]) -> None:
    tokens = RNG.integers(0, 40, (5, *shape))
    expected = published(tokenizer, tokens)
    codec = Codec(tokenizer, "")
    together = np.stack(codec.decode_many(list(tokens)))
    assert np.abs(together - expected).max() <= 1
    alone = np.stack([codec.decode(one) for one in tokens])
    assert np.abs(alone.astype(int) - together).max() <= 1


def test_half_precision_is_for_pixels_and_not_for_codes(tokenizer: VQModel) -> None:
    tokens = RNG.integers(0, 40, (2, 4, 4))
    images = list(RNG.integers(0, 256, (2, 16, 24, 3), dtype=np.uint8))
    expected, codes = published(tokenizer, tokens), Codec(copy.deepcopy(tokenizer), "").encode_many(images)
    codec = Codec(tokenizer, "", placement=FakeGpu())
    assert np.abs(np.stack(codec.decode_many(list(tokens))) - expected).max() <= 8
    assert np.array_equal(codec.encode_many(images), codes)


def test_pictures_together_are_one_download(tokenizer: VQModel) -> None:
    placement = FakeGpu()
    codec = Codec(tokenizer, "", placement=placement)
    codec.decode_many(list(RNG.integers(0, 40, (8, 4, 4))))
    assert placement.downloads == 1
    codec.palette()
    assert placement.downloads == 1 + 2  # 40 codes, 32 together

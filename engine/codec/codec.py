"""Encodes pictures to tokens and decodes tokens to pictures, with the VQ tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from engine.codec import palettes
from engine.codec.palettes import PATCH
from engine.codec.vq import VQModel

PALETTE_BATCH = 32  # codes; each is a picture of a token


class Stopped(Exception):
    """`stop` ended a computation before its end."""


class Codec:
    """stride: pixels on a side of a token. Thread-safe: only the palette is kept between calls."""

    def __init__(self, tokenizer: VQModel, fingerprint: str, palette: np.ndarray | None = None) -> None:
        self._tokenizer = tokenizer
        self._fingerprint = fingerprint
        self._palette = palette
        self._device = next(tokenizer.parameters()).device
        self.stride = tokenizer.config.stride

    def encode(self, image: np.ndarray) -> np.ndarray:
        """Tokens int32 (rows, cols) of a picture uint8 (H, W, 3); H and W multiples of the stride."""
        return self.encode_many([image])[0]

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Picture uint8 (rows · stride, cols · stride, 3) of tokens (rows, cols)."""
        return self.decode_many([tokens])[0]

    @torch.inference_mode()
    def encode_many(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As encode, for several pictures of one size."""
        height, width = images[0].shape[:2]
        if height % self.stride or width % self.stride:
            raise ValueError(f"{width}×{height} pixels are not a whole number of {self.stride}-pixel tokens")
        pixels = torch.from_numpy(np.stack(images)).to(self._device)
        codes = self._tokenizer.encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
        return list(codes.int().cpu().numpy())

    @torch.inference_mode()
    def decode_many(self, tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As decode, for several token maps of one size."""
        codes = torch.from_numpy(np.stack(tokens)).to(self._device).long()
        return list(_pixels(self._tokenizer.decode(codes)))

    def palette(self, stop: Callable[[], bool] = lambda: False) -> np.ndarray:
        """uint8 (codes, 4, 4, 3): what each code looks like, to show token maps without a decoder. If the model ships
        none, the first call decodes every code, which takes minutes for a large tokenizer on a CPU, and stores the
        result in the user's cache. stop is called between batches; raises Stopped when it returns True."""
        if self._palette is None:
            try:
                self._palette = palettes.load(palettes.cached(self._fingerprint), self._tokenizer.config.codebook_size)
            except (OSError, ValueError):
                self._palette = self._patches(stop)
                with contextlib.suppress(OSError):  # without a cache it is computed again at the next start
                    palettes.keep(self._fingerprint, self._palette)
        return self._palette

    @torch.inference_mode()
    def _patches(self, stop: Callable[[], bool]) -> np.ndarray:
        codes = torch.arange(self._tokenizer.config.codebook_size, device=self._device)
        patches = []
        for part in codes.split(PALETTE_BATCH):
            if stop():
                raise Stopped
            pictures = self._tokenizer.decode(part.view(-1, 1, 1))
            patches.append(_pixels(torch.nn.functional.adaptive_avg_pool2d(pictures, PATCH)))
        return np.concatenate(patches)


def _pixels(pictures: Tensor) -> np.ndarray:
    """uint8 (n, H, W, 3) of pictures (n, 3, H, W) in [-1, 1], rounded as published."""
    return (127.5 * pictures + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

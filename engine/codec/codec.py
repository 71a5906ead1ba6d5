"""Encodes pictures to tokens and decodes tokens to pictures, with the VQ tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from engine.codec import palettes
from engine.codec.palettes import PATCH
from engine.codec.placement import Placement, placement_on
from engine.codec.serving import Serving
from engine.codec.vq import VQModel


class Stopped(Exception):
    """`stop` ended a computation before its end."""


class Codec:
    """stride: pixels on a side of a token. together: at most so many pictures are best decoded in one call. Takes the
    tokenizer over: see Serving. Thread-safe: only the palette is kept between calls."""

    def __init__(
        self,
        tokenizer: VQModel,
        fingerprint: str,
        palette: np.ndarray | None = None,
        placement: Placement | None = None,
    ) -> None:
        self._placement = placement or placement_on(next(tokenizer.parameters()).device)
        self._serving = Serving(tokenizer, self._placement.dtype)
        self._codes = tokenizer.config.codebook_size
        self._fingerprint = fingerprint
        self._palette = palette
        self.together = self._placement.together
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
        with self._placement.working():
            pixels = self._placement.upload(np.stack(images))
            codes = self._serving.encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
            return list(self._placement.download(codes.int()))

    @torch.inference_mode()
    def decode_many(self, tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As decode, for several token maps of one size."""
        with self._placement.working():
            codes = self._placement.upload(np.stack(tokens)).long()
            return list(self._placement.download(_pixels(self._serving.decode(codes))))

    def palette(self, stop: Callable[[], bool] = lambda: False) -> np.ndarray:
        """uint8 (codes, 4, 4, 3): what each code looks like, to show token maps without a decoder. If the model ships
        none, the first call decodes every code, which takes minutes for a large tokenizer on a CPU, and stores the
        result in the user's cache. stop is called between batches; raises Stopped when it returns True."""
        if self._palette is None:
            try:
                self._palette = palettes.load(palettes.cached(self._fingerprint), self._codes)
            except (OSError, ValueError):
                self._palette = self._patches(stop)
                with contextlib.suppress(OSError):  # without a cache it is computed again at the next start
                    palettes.keep(self._fingerprint, self._palette)
        return self._palette

    @torch.inference_mode()
    def _patches(self, stop: Callable[[], bool]) -> np.ndarray:
        patches = []
        for part in np.array_split(np.arange(self._codes), -(-self._codes // self._placement.palette_batch)):
            if stop():
                raise Stopped
            with self._placement.working():
                pictures = self._serving.decode(self._placement.upload(part)[:, None, None])
                shrunk = torch.nn.functional.adaptive_avg_pool2d(pictures, PATCH)
                patches.append(self._placement.download(_pixels(shrunk)))
        return np.concatenate(patches)


def _pixels(pictures: Tensor) -> Tensor:
    """uint8 (n, H, W, 3) of pictures (n, 3, H, W) in [-1, 1], rounded as published."""
    return (127.5 * pictures + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

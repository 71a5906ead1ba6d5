"""A tokenizer prepared to serve: the published numbers, with fewer passes over the pixels.

Pixels lie channels-last, which convolutions compute in on every device. On the decoder's way a 3×3 convolution after a
doubling of the picture sees each pixel of the small picture up to twice, so it is computed on the small one, as a
transposed convolution with the weights of equal pixels added up: 16 products a pixel instead of 36. Codes are looked up
in a table of what `post_quant_conv` makes of each entry of the codebook.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.codec.vq import Level, Upsample, VQModel


class MergedUpsample(nn.Module):
    """Upsample, with the weights of its convolution added up where they see the same pixel."""

    def __init__(self, upsample: Upsample) -> None:
        super().__init__()
        self.weight = nn.Parameter(_merged(upsample.conv.weight), requires_grad=False)
        self.bias = upsample.conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)


class Serving:
    """Takes the tokenizer over: its decoder computes in `dtype` from now on. The encoder stays float32, because a code
    is the nearest of many entries: rounding would choose others."""

    def __init__(self, tokenizer: VQModel, dtype: torch.dtype) -> None:
        self._encoder = tokenizer
        with torch.inference_mode():
            entries = tokenizer.quantize.codebook()[:, :, None, None]
            self._table = tokenizer.post_quant_conv(entries).flatten(1).to(dtype)
        decoder = tokenizer.decoder
        for level in decoder.conv_blocks:
            assert isinstance(level, Level)
            if isinstance(level.upsample, Upsample):
                level.upsample = MergedUpsample(level.upsample)
        self._decoder = decoder.to(dtype)
        lay_out: Any = tokenizer.to  # its types leave out memory_format
        lay_out(memory_format=torch.channels_last)

    def encode(self, images: Tensor) -> Tensor:
        """As VQModel.encode."""
        return self._encoder.encode(images)

    def decode(self, codes: Tensor) -> Tensor:
        """As VQModel.decode."""
        decoded: Tensor = self._decoder(F.embedding(codes, self._table).permute(0, 3, 1, 2))
        return decoded.float()


def _merged(weight: Tensor) -> Tensor:
    """Weights (in, out, 4, 4) of the transposed convolution, stride 2 and padding 1, that a convolution (out, in, 3, 3)
    after nearest-neighbour doubling is.

    Along one axis: the pixel 2a + p of the result sees pixels 2a + p - 1 + k of the doubled picture, k = 0, 1, 2, which
    are pixel a + d of the small one, d = (p - 1 + k) // 2; the transposed weight of that pixel is number p + 1 - 2d.
    """
    sums = weight.new_zeros(4, 3)
    for p in range(2):
        for k in range(3):
            sums[p + 1 - 2 * ((p - 1 + k) // 2), k] = 1
    return torch.einsum("xi,yj,oaij->aoxy", sums, sums, weight.detach())

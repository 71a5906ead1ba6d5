"""The VQ tokenizer of LlamaGen (arXiv 2406.06525), which ARPG, PAR and RandAR draw with.

A convolutional encoder and decoder around a codebook whose entries and queries are L2-normalised. Module names are
those of the public checkpoints, which also hold a buffer `codebook_used`, statistics of the training, that is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True, kw_only=True)
class VQConfig:
    """Sizes of a tokenizer. The defaults are the published VQ-16."""

    codebook_size: int = 16384
    codebook_dim: int = 8
    channels: int = 128
    channel_mult: Sequence[int] = (1, 1, 2, 2, 4)
    z_channels: int = 256
    encoder_res_blocks: int = 2
    decoder_res_blocks: int = 2
    norm_groups: int = 32

    @property
    def stride(self) -> int:
        """Pixels on a side of a token."""
        return 2 ** (len(self.channel_mult) - 1)


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class Pointwise(nn.Conv2d):
    """A 1×1 convolution, as the product of matrices that it is: torch has no fast kernel for small ones on a CPU."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__(inner, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    def __init__(self, inner: int, outer: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(inner, groups)
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2 = _norm(outer, groups)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        self.nin_shortcut = nn.Identity() if inner == outer else Pointwise(inner, outer)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h.add_(self.nin_shortcut(x))


class AttnBlock(nn.Module):
    """Single-head self-attention over the cells of the feature map."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q = Pointwise(channels, channels)
        self.k = Pointwise(channels, channels)
        self.v = Pointwise(channels, channels)
        self.proj_out = Pointwise(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (to(h).flatten(2).transpose(1, 2)[:, None] for to in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.proj_out(attended)


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # padded on the right and at the bottom only, as published


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _middle(channels: int, groups: int) -> nn.ModuleList:
    return nn.ModuleList(
        [ResBlock(channels, channels, groups), AttnBlock(channels, groups), ResBlock(channels, channels, groups)]
    )


class Level(nn.Module):
    """The blocks of one resolution, then the change to the next resolution."""

    def __init__(self, inner: int, outer: int, res_blocks: int, groups: int, *, attention: bool) -> None:
        super().__init__()
        self.res = nn.ModuleList(ResBlock(inner if i == 0 else outer, outer, groups) for i in range(res_blocks))
        self.attn = nn.ModuleList(AttnBlock(outer, groups) for _ in range(res_blocks if attention else 0))
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.res):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x)
        return self.upsample(self.downsample(x))


class Encoder(nn.Module):
    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        widths = [config.channels * mult for mult in config.channel_mult]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.conv_blocks = nn.ModuleList()
        inner = config.channels
        for index, outer in enumerate(widths):
            level = Level(inner, outer, config.encoder_res_blocks, config.norm_groups, attention=index == last)
            if index != last:
                level.downsample = Downsample(outer)
            self.conv_blocks.append(level)
            inner = outer
        self.mid = _middle(inner, config.norm_groups)
        self.norm_out = _norm(inner, config.norm_groups)
        self.conv_out = nn.Conv2d(inner, config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.conv_blocks:
            x = level(x)
        for block in self.mid:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x), inplace=True))


class Decoder(nn.Module):
    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        widths = [config.channels * mult for mult in config.channel_mult][::-1]
        inner = widths[0]
        self.conv_in = nn.Conv2d(config.z_channels, inner, 3, padding=1)
        self.mid = _middle(inner, config.norm_groups)
        self.conv_blocks = nn.ModuleList()
        for index, outer in enumerate(widths):
            level = Level(inner, outer, config.decoder_res_blocks + 1, config.norm_groups, attention=index == 0)
            if index != len(widths) - 1:
                level.upsample = Upsample(outer)
            self.conv_blocks.append(level)
            inner = outer
        self.norm_out = _norm(inner, config.norm_groups)
        self.conv_out = nn.Conv2d(inner, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        for block in self.mid:
            x = block(x)
        for level in self.conv_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x), inplace=True))


class Quantizer(nn.Module):
    """Finds the nearest codebook entry on the unit sphere."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.codebook_size, config.codebook_dim)

    def codebook(self) -> Tensor:
        """Unit vectors (codebook_size, codebook_dim)."""
        return F.normalize(self.embedding.weight, dim=-1)

    def nearest(self, latent: Tensor) -> Tensor:
        """Codes (B, h, w) of a latent (B, codebook_dim, h, w)."""
        z = F.normalize(latent.float().permute(0, 2, 3, 1), dim=-1)
        # On the unit sphere the nearest entry is the one with the largest cosine.
        return (z @ self.codebook().float().T).argmax(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Entries (B, codebook_dim, h, w) of codes (B, h, w)."""
        return F.embedding(codes, self.codebook()).permute(0, 3, 1, 2)


class VQModel(nn.Module):
    """Encodes images in [-1, 1] to codes and decodes them. H and W must be multiples of the stride."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Quantizer(config)
        self.quant_conv = Pointwise(config.z_channels, config.codebook_dim)
        self.post_quant_conv = Pointwise(config.codebook_dim, config.z_channels)

    def latent(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, codebook_dim, H / stride, W / stride), before quantisation."""
        return self.quant_conv(self.encoder(images))

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to int64 codes (B, H / stride, W / stride)."""
        return self.quantize.nearest(self.latent(images))

    def decode_latent(self, quantized: Tensor) -> Tensor:
        """Unit vectors (B, codebook_dim, h, w) to images (B, 3, h·stride, w·stride), roughly in [-1, 1]."""
        return self.decoder(self.post_quant_conv(quantized))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) to images (B, 3, h·stride, w·stride), roughly in [-1, 1]."""
        return self.decode_latent(self.quantize.lookup(codes))

"""Small trainings, for the tests of them."""

from __future__ import annotations

from typing import Any

import torch

from engine.codec.vq import VQConfig
from engine.models.arpg import ARPGConfig
from engine.training.batches import draw_batch, draw_openings
from engine.training.loop import shuffled_batch
from engine.training.tokenizer import TokenizerRecipe, TokenizerTrainer
from engine.training.transformer import TransformerTrainer

CPU = torch.device("cpu")
GRID = (4, 4)
SIZES = {"dim": 32, "n_layer": 4, "n_head": 2, "multiple_of": 16, "vocab_size": 24, "num_classes": 16}
TINY_ARPG = ARPGConfig(**SIZES)
TINY = {"name": "tiny", "family": "arpg", "grid": list(GRID), "transformer": SIZES}
TINY_VQ = VQConfig(
    codebook_size=24,
    codebook_dim=8,
    channels=16,
    channel_mult=(1, 2, 2),
    z_channels=16,
    encoder_res_blocks=1,
    decoder_res_blocks=1,
    norm_groups=4,
)
VQ_RECIPE = TokenizerRecipe(steps=24, batch=4, warm_up=2, seed_codebook_at=4, revive_every=3)


def pictures(count: int) -> torch.Tensor:
    """Images in [-1, 1] of one bright square each, (count, 3, 16, 16)."""
    generator = torch.Generator().manual_seed(5)
    images = torch.full((count, 3, 16, 16), -0.5)
    for image in images:
        top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
        image[:, top : top + 8, left : left + 8] = torch.rand(3, 1, 1, generator=generator)
    return images


def codes(count: int) -> torch.Tensor:
    """Token maps (count, 16) that their label decides: two tokens a class, striped."""
    labels = torch.arange(count) % 16
    return torch.stack([labels, labels + 8], dim=1).repeat(1, 8)


def tokenizer_run(trainer: TokenizerTrainer, steps: int) -> list[float]:
    images = pictures(32)
    return [trainer.step(images[shuffled_batch(VQ_RECIPE.batch, 32, 0, trainer.done)])["error"] for _ in range(steps)]


def transformer_run(trainer: TransformerTrainer, steps: int) -> list[float]:
    recipe, source = trainer.recipe, codes(64)
    return [
        trainer.step(draw_batch(source, 16, recipe, n), draw_openings(source, 16, recipe, n)).item()
        for n in range(trainer.done, trainer.done + steps)
    ]


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other

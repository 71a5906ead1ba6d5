"""Training of the VQ tokenizer on renders.

The codebook follows the encoder by moving averages. It is initialised from encoder outputs after a warm-up. Unused
entries are moved to encoder outputs until the last part of the run, in which the learning rate falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from engine.codec.vq import VQConfig, VQModel
from engine.training.group_norm import quicken_group_norm
from engine.training.loop import (
    AveragedWeights,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
    shuffled_batch,
    step_generator,
)
from engine.training.optimizer import MatrixOptimizer
from engine.training.parallel import ALONE, Team
from engine.training.world.renders import to_signed

DEMO_TOKENIZER = VQConfig(
    codebook_size=512,
    codebook_dim=8,
    channels=32,
    channel_mult=(1, 1, 2, 4),
    z_channels=64,
    encoder_res_blocks=1,
    decoder_res_blocks=1,
    norm_groups=4,  # 32 groups of 32 channels would lose the picture's colour
)


@dataclass(frozen=True, slots=True)
class TokenizerRecipe:
    steps: int = 1150
    batch: int = 8
    rate: float = 1e-3
    matrix_rate: float = 0.01
    warm_up: int = 50
    floor: float = 0.02
    seed: int = 0
    codebook_decay: float = 0.97
    seed_codebook_at: int = 150
    revive_every: int = 25
    revive_until: float = 0.6  # share of the run
    commitment: float = 0.25
    gradients: float = 0.5  # weight of the edge term
    average: float = 0.998


class TokenizerTrainer:
    """One `step` at a time; `state` and `restore` make it resumable."""

    def __init__(self, config: VQConfig, recipe: TokenizerRecipe, device: torch.device, team: Team = ALONE) -> None:
        self.recipe, self.device, self.team, self.done = recipe, device, team, 0
        torch.manual_seed(recipe.seed)
        self.model = VQModel(config).to(device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device.type == "cpu":
            quicken_group_norm(self.model)
        self.model.quantize.embedding.weight.requires_grad_(False)
        self.optimizer = MatrixOptimizer(
            self.model,
            lambda name, p: p.dim() == 4 and p.shape[-1] == 3,
            matrix_rate=recipe.matrix_rate,
            rate=recipe.rate,
        )
        unit = self.model.quantize.codebook().detach()
        self.counts = torch.ones(len(unit), device=device)
        self.sums = unit.clone()
        self.averaged = AveragedWeights(self.model, recipe.average)

    def step(self, images: Tensor) -> dict[str, float]:
        """One update on this member's share (B, 3, H, W) of the batch, in [-1, 1]."""
        recipe = self.recipe
        self.optimizer.scale_rates(learning_rate(self.done, recipe.steps, recipe.warm_up, recipe.floor))
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        if self.done == 0:
            self._spread(images)
        with torch.autocast(self.device.type, torch.bfloat16):
            latent = self.model.latent(images)
        z = F.normalize(latent.float(), dim=1)
        if self.done == recipe.seed_codebook_at:
            self._move(torch.arange(len(self.sums), device=self.device), z)
        codes = self.model.quantize.nearest(z)
        chosen = self.model.quantize.lookup(codes).detach()
        # Until the codebook is initialised the decoder sees the latent itself: a plain autoencoder.
        through = z + (chosen - z).detach() if self.done >= recipe.seed_codebook_at else z
        with torch.autocast(self.device.type, torch.bfloat16):
            decoded = self.model.decode_latent(through)
        decoded = decoded.float()
        error = (decoded - images).abs().mean()
        edges = _edge_error(decoded, images)
        commitment = (z - chosen).pow(2).sum(1).mean()
        loss = error + recipe.gradients * edges
        if self.done >= recipe.seed_codebook_at:
            loss = loss + recipe.commitment * commitment
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        self.team.average_gradients(self.model)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        if self.done >= recipe.seed_codebook_at:
            self._follow(z.detach(), codes)
        self.done += 1
        self.averaged.update(self.model, self.done)
        return {
            "error": error.item(),
            "edges": edges.item(),
            "commitment": commitment.item(),
            "used": float((self.counts > 0.05).sum()),
        }

    @torch.no_grad()
    def _spread(self, images: Tensor) -> None:
        """Start from whitened principal components, because untrained features all lie in one direction on the
        sphere."""
        features = self.model.encoder(images).permute(0, 2, 3, 1).flatten(0, 2)
        centre = features.mean(0)
        _, values, directions = torch.linalg.svd(features - centre, full_matrices=False)
        dim = self.model.config.codebook_dim
        scale = len(features) ** 0.5 / values[:dim].clamp_min(1e-6)
        weight = directions[:dim] * scale[:, None]
        self.model.quant_conv.weight.copy_(self.team.from_first(weight[:, :, None, None].contiguous()))
        bias = self.model.quant_conv.bias
        assert bias is not None
        bias.copy_(self.team.from_first(-(weight @ centre)))

    @torch.no_grad()
    def _follow(self, z: Tensor, codes: Tensor) -> None:
        """Move each entry towards the latents assigned to it, and unused entries to random latents."""
        recipe = self.recipe
        flat, index = z.permute(0, 2, 3, 1).flatten(0, 2), codes.flatten()
        counts = self.team.sum(torch.zeros_like(self.counts).index_add_(0, index, torch.ones_like(flat[:, 0])))
        sums = self.team.sum(torch.zeros_like(self.sums).index_add_(0, index, flat))
        self.counts.lerp_(counts, 1 - recipe.codebook_decay)
        self.sums.lerp_(sums, 1 - recipe.codebook_decay)
        if self.done % recipe.revive_every == 0 and self.done < recipe.revive_until * recipe.steps:
            dead = torch.nonzero(self.counts < 0.2).squeeze(1)
            if len(dead):
                self._move(dead, z)
        self.model.quantize.embedding.weight.copy_(F.normalize(self.sums, dim=-1))

    @torch.no_grad()
    def _move(self, entries: Tensor, z: Tensor) -> None:
        """Place codebook entries on encoder outputs drawn at random."""
        flat = z.detach().permute(0, 2, 3, 1).flatten(0, 2)
        generator = step_generator(self.recipe.seed + 1, self.done)
        places = torch.randperm(len(flat), generator=generator)[: len(entries)].to(flat.device)
        self.sums[entries] = self.team.from_first(flat[places])
        self.counts[entries] = 1.0
        self.model.quantize.embedding.weight.copy_(F.normalize(self.sums, dim=-1))

    def state(self) -> dict[str, Any]:
        return {
            "done": self.done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged.values,
            "counts": self.counts,
            "sums": self.sums,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.done = state["done"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged.values = state["averaged"]
        self.counts, self.sums = state["counts"], state["sums"]


def _edge_error(found: Tensor, expected: Tensor) -> Tensor:
    """Mean absolute difference of the horizontal and vertical gradients."""
    difference = found - expected
    return difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()


def train_tokenizer(
    team: Team,
    pictures: Tensor,
    config: VQConfig,
    recipe: TokenizerRecipe,
    checkpoint: Path,
    device: torch.device,
    save_every: int = 50,
) -> None:
    """Train to `recipe.steps` on uint8 pictures (n, 3, H, W), mirrored at random, resuming from the checkpoint."""
    trainer = TokenizerTrainer(config, recipe, device, team)
    state = load_checkpoint(checkpoint, device)
    if state is not None:
        trainer.restore(state)
    first = team.rank == 0
    bar = tqdm(
        range(trainer.done, recipe.steps), initial=trainer.done, total=recipe.steps, desc="vq", disable=not first
    )
    for step in bar:
        images = to_signed(pictures[team.share(shuffled_batch(recipe.batch, len(pictures), recipe.seed, step))])
        mirrored = team.share(torch.rand(recipe.batch, generator=step_generator(recipe.seed, step)) < 0.5)
        images[mirrored] = images[mirrored].flip(-1)
        figures = trainer.step(images)
        bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
        if first and (trainer.done % save_every == 0 or trainer.done == recipe.steps):
            save_checkpoint(checkpoint, trainer.state())

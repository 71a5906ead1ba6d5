"""Training of the transformers on stored codes, as in the papers: one pass over all rows, class dropout, and random
orders for models that draw in any order."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from engine.models.arpg import ARPG
from engine.models.families import FAMILIES
from engine.models.llamagen import LlamaGen
from engine.request import Request
from engine.training.batches import Batch, TransformerRecipe
from engine.training.fixed_order import FixedOrder
from engine.training.forward import AnyOrder
from engine.training.loop import (
    AveragedWeights,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
    save_half,
)
from engine.training.optimizer import MatrixOptimizer
from engine.training.parallel import ALONE, Team
from engine.training.prompts.network import AnyOrderOfText, PromptedARPG

Objective = Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""A network, ids, conditions, orders (see Batch) → logits float32 (B, L, vocab_size), and the tokens that they predict.
"""

Batches = Callable[[int], tuple[Batch, Batch | None]]
"""Of a step: the batch, and openings where the recipe has some."""

HIDDEN_PARTS = {"layers", "block", "cap_proj"}
"""Modules whose matrices map hidden states to hidden states."""
LAST_MATRICES = ("proj.weight", "w2.weight", "head.weight", "wo.weight", "output.weight")


class TransformerTrainer:
    """One `step` at a time; `state` and `restore` make it resumable."""

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        recipe: TransformerRecipe,
        device: torch.device,
        team: Team = ALONE,
    ) -> None:
        self.recipe, self.device, self.team, self.done = recipe, device, team, 0
        self.model = network.to(device)
        _initialise(self.model, recipe.seed)
        self._working = copy.deepcopy(self.model).bfloat16() if recipe.bfloat16 else self.model
        self.optimizer = MatrixOptimizer(
            self.model,
            lambda name, p: p.dim() == 2 and _is_hidden(name.split(".")),
            matrix_rate=recipe.matrix_rate,
            rate=recipe.rate,
            weight_decay=recipe.weight_decay,
        )
        self.averaged = AveragedWeights(self.model, recipe.average)
        self._objective = objective
        self._loss = torch.compile(self._total_loss, dynamic=False) if recipe.compile else self._total_loss

    def _total_loss(self, ids: Tensor, conditions: Tensor, orders: Tensor, given: Tensor) -> Tensor:
        logits, wanted = self._objective(self._working, ids, conditions, orders)
        learnt = torch.arange(wanted.shape[1], device=given.device) >= given[:, None]
        return (F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none") * learnt).sum()

    def step(self, batch: Batch, openings: Batch | None = None) -> Tensor:
        """One update on this member's share of a batch; its mean loss. The tokens of the openings count like
        others, so the first tokens have more weight."""
        recipe = self.recipe
        self.optimizer.scale_rates(learning_rate(self.done, recipe.steps, recipe.warm_up, recipe.floor))
        tokens = batch.tokens / self.team.size
        self._working.zero_grad(set_to_none=True)
        loss = self._backward(batch, tokens)
        if openings is not None:
            self._backward(openings, tokens)
        if self._working is not self.model:
            for weight, working in zip(self.model.parameters(), self._working.parameters(), strict=True):
                weight.grad = None if working.grad is None else working.grad.float()
        self.team.average_gradients(self.model)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self._refresh()
        self.done += 1
        self.averaged.update(self.model, self.done)
        return loss.detach()

    def _backward(self, batch: Batch, tokens: float) -> Tensor:
        share = (self.team.share(t).to(self.device) for t in (batch.ids, batch.conditions, batch.orders, batch.given))
        loss = self._loss(*share) / tokens
        loss.backward()
        return loss

    @torch.no_grad()
    def _refresh(self) -> None:
        if self._working is not self.model:
            torch._foreach_copy_(list(self._working.parameters()), list(self.model.parameters()))

    def state(self) -> dict[str, Any]:
        return {
            "done": self.done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged.values,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.done = state["done"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged.values = state["averaged"]
        self._working.load_state_dict(state["model"])

    def begin_with(self, weights: dict[str, Tensor]) -> None:
        """Take these weights, of which some may be missing. Raises ValueError when one does not fit."""
        own = self.model.state_dict()
        for name, value in weights.items():
            if name not in own or own[name].shape != value.shape:
                raise ValueError(f"{name} {tuple(value.shape)} is no weight of this network: other sizes?")
        self.model.load_state_dict(own | {name: value.to(own[name]) for name, value in weights.items()})
        self._working.load_state_dict(self.model.state_dict())
        self.averaged = AveragedWeights(self.model, self.recipe.average)


def _is_hidden(parts: list[str]) -> bool:
    return not HIDDEN_PARTS.isdisjoint(parts) and "relative_attention_bias" not in parts


def _initialise(model: nn.Module, seed: int) -> None:
    """Set the last matrix of each layer and the head to zero: layers start as the identity, logits equal."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.reset_parameters()
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    for name, weight in model.named_parameters():
        if name.endswith(LAST_MATRICES):
            nn.init.zeros_(weight)


def new_network(demo: dict[str, Any]) -> tuple[nn.Module, Objective]:
    """The network that a model.json describes, and its objective."""
    rows, cols = demo["grid"]
    if "encoder" in demo:
        prompted = PromptedARPG(demo)
        return prompted, AnyOrderOfText(prompted, (rows, cols))
    architecture = FAMILIES[demo["family"]](demo, (rows, cols))
    network = architecture.network
    if isinstance(network, ARPG):
        return network, AnyOrder(network, (rows, cols))
    assert isinstance(network, LlamaGen)
    return network, FixedOrder(network, architecture.plan(Request()), (rows, cols))


def train_transformer(
    team: Team,
    batches: Batches,
    demo: dict[str, Any],
    recipe: TransformerRecipe,
    checkpoint: Path,
    device: torch.device,
    first_weights: dict[str, Tensor] | None = None,
    save_every: int = 50,
    keep_every: int = 1000,
) -> None:
    """Train to `recipe.steps`, resuming from the checkpoint. Without a checkpoint: from `first_weights`, of which some
    may be missing, or from random ones.

    Every `keep_every` steps the averaged weights are stored beside it as <checkpoint>-<step>.safetensors.
    """
    trainer = TransformerTrainer(*new_network(demo), recipe, device, team)
    state = load_checkpoint(checkpoint, device)
    if state is not None:
        trainer.restore(state)
    elif first_weights is not None:
        trainer.begin_with(first_weights)
    first = team.rank == 0
    steps = range(trainer.done, recipe.steps)
    bar = tqdm(steps, initial=trainer.done, total=recipe.steps, desc=demo["name"], disable=not first)
    recent = None
    for step in bar:
        loss = trainer.step(*batches(step)).item()
        recent = loss if recent is None else 0.95 * recent + 0.05 * loss
        bar.set_postfix(loss=f"{loss:.3f}", recent=f"{recent:.3f}", refresh=False)
        if first and (trainer.done % save_every == 0 or trainer.done == recipe.steps):
            save_checkpoint(checkpoint, trainer.state())
        if first and trainer.done % keep_every == 0:
            kept = checkpoint.with_name(f"{checkpoint.stem}-{trainer.done:06d}.safetensors")
            save_half(trainer.averaged.values, kept)

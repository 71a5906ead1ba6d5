"""Batches for the transformers: which pictures, orders and classes a training step sees."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.training.loop import shuffled_batch, step_generator

SPANS, AT_BORDER = 1 / 3, 1 / 2
"""Of the rectangles of `_regions`: the share that spans the grid in a direction, and the share at a border."""


@dataclass(frozen=True, slots=True)
class TransformerRecipe:
    steps: int = 8000
    per_class: int = 2  # of every class in a batch
    openings: int = 8  # of every class, only their first `opening` tokens: these decide the picture
    opening: int = 16
    matrix_rate: float = 0.02
    rate: float = 3e-3
    weight_decay: float = 0.01
    warm_up: int = 100
    floor: float = 0.05
    class_dropout: float = 0.1
    average: float = 0.998
    first_cell: int | None = None  # comes first in every order, because the first query can't tell its position
    regions: float = 0.0  # share of the whole sequences in which the tokens outside (or inside) a rectangle are given
    grid: tuple[int, int] = (16, 16)
    seed: int = 0
    bfloat16: bool = True  # forward and backward; the weights that the optimizers move stay float32
    compile: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Row-major ids (B, L), orders (B, L or fewer). conditions: class labels (B,) with num_classes for dropped ones, or
    captions (B, n) as PromptedARPG takes them. given (B,): how many tokens at the start of an order are given and have
    no loss."""

    ids: Tensor
    conditions: Tensor
    orders: Tensor
    given: Tensor

    @property
    def tokens(self) -> int:
        """How many tokens have a loss."""
        return self.orders.numel() - int(self.given.sum())


def draw_batch(codes: Tensor, num_classes: int, recipe: TransformerRecipe, step: int) -> Batch:
    """Batch number `step` from codes (pictures, L); picture i has label i % num_classes."""
    return _batch(codes, num_classes, recipe, recipe.per_class, recipe.seed, step, recipe.regions)


def draw_openings(codes: Tensor, num_classes: int, recipe: TransformerRecipe, step: int) -> Batch:
    """As draw_batch, with other pictures, and only their first tokens."""
    batch = _batch(codes, num_classes, recipe, recipe.openings, recipe.seed + 1, step)
    return replace(batch, orders=batch.orders[:, : recipe.opening])


class ClassBatches:
    """The batch and the openings of each step, as train_transformer takes them."""

    def __init__(self, codes: Tensor, num_classes: int, recipe: TransformerRecipe) -> None:
        self._arguments = (codes, num_classes, recipe)

    def __call__(self, step: int) -> tuple[Batch, Batch | None]:
        openings = draw_openings(*self._arguments, step) if self._arguments[2].openings else None
        return draw_batch(*self._arguments, step), openings


def _batch(
    codes: Tensor, num_classes: int, recipe: TransformerRecipe, size: int, seed: int, step: int, regions: float = 0.0
) -> Batch:
    """`size` pictures of every class."""
    each = len(codes) // num_classes
    members = [
        shuffled_batch(size, each, seed * num_classes + label, step) * num_classes + label
        for label in range(num_classes)
    ]
    ids = codes[torch.cat(members)].long()
    generator = step_generator(seed, step)
    classes = torch.arange(num_classes).repeat_interleave(size)
    dropped = torch.rand(classes.shape, generator=generator) < recipe.class_dropout
    return order_batch(ids, classes.masked_fill(dropped, num_classes), recipe, generator, regions)


def order_batch(
    ids: Tensor, conditions: Tensor, recipe: TransformerRecipe, generator: torch.Generator, regions: float
) -> Batch:
    """A batch of these pictures in random orders."""
    keys = torch.rand(ids.shape, generator=generator)
    hidden = torch.ones(ids.shape, dtype=torch.bool)
    if regions:
        chosen = torch.rand(len(ids), generator=generator) < regions
        hidden[chosen] = _regions(int(chosen.sum()), recipe.grid, generator)
    if recipe.first_cell is not None:
        keys[:, recipe.first_cell] = -1
    # Given tokens come first; within each part the first cell comes first, as in plans.
    orders = (keys + 3 * hidden).argsort(dim=1)
    return Batch(ids, conditions, orders, (~hidden).sum(1))


def _regions(count: int, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
    """bool (count, positions): inside of random rectangles, or outside of them. Many are as the windows of an
    outpainting are, in which one side is given."""
    inside = torch.ones(count, *grid, dtype=torch.bool)
    for dim, side in enumerate(grid, start=1):
        spans, at_border, place = torch.rand(3, count, 1, generator=generator).unbind()
        length = torch.randint(side // 4, side + 1, (count, 1), generator=generator)
        length = torch.where(spans < SPANS, side, length)
        start = (place * (side - length + 1)).long()
        start = torch.where(at_border < AT_BORDER, torch.where(place < 0.5, 0, side - length), start)
        places = torch.arange(side)
        within = (places >= start) & (places < start + length)
        inside &= within.unsqueeze(3 - dim)
    outside = torch.rand(count, generator=generator) < 0.5
    hidden = (inside ^ outside[:, None, None]).flatten(1)
    hidden[~hidden.any(1)] = True  # the rectangle was the grid
    return hidden

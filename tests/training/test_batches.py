"""Batches of a training step, and which of their tokens have a loss."""

from __future__ import annotations

import copy

import pytest
import torch

from engine.models.arpg import ARPG
from engine.training.batches import TransformerRecipe, draw_batch, draw_openings
from engine.training.forward import AnyOrder
from engine.training.loop import shuffled_batch
from engine.training.transformer import TransformerTrainer, new_network
from tests.support.training import CPU, GRID, TINY, codes


def test_batches_are_balanced_and_classes_dropped_at_the_stated_rate() -> None:
    recipe = TransformerRecipe(per_class=4)
    source = codes(64)
    dropped = 0
    for step in range(50):
        batch = draw_batch(source, 16, recipe, step)
        labels = batch.ids[:, 0]
        assert torch.bincount(labels, minlength=16).tolist() == [4] * 16
        kept = batch.conditions < 16
        assert torch.equal(batch.conditions[kept], labels[kept])
        assert torch.equal(batch.orders.sort(dim=1).values, torch.arange(16).expand(64, -1))
        dropped += int((~kept).sum())
    assert dropped / (50 * 64) == pytest.approx(recipe.class_dropout, abs=0.02)  # 3.8 standard deviations
    assert not torch.equal(batch.orders[0], batch.orders[1])


def test_a_first_cell_comes_first_and_the_rest_at_random() -> None:
    batch = draw_batch(torch.zeros(64, 16), 16, TransformerRecipe(per_class=4, first_cell=9), 0)
    assert (batch.orders[:, 0] == 9).all()
    assert torch.equal(batch.orders.sort(dim=1).values, torch.arange(16).expand(64, -1))
    assert len(batch.orders[:, 1].unique()) > 5


def test_regions_are_given_before_what_is_learnt() -> None:
    recipe = TransformerRecipe(per_class=8, first_cell=9, regions=0.5, grid=(4, 4))
    batch = draw_batch(torch.zeros(128, 16), 16, recipe, 0)
    assert torch.equal(batch.orders.sort(dim=1).values, torch.arange(16).expand(128, -1))
    shapes = set()
    for order, given in zip(batch.orders.tolist(), batch.given.tolist(), strict=True):
        known, hidden = order[:given], order[given:]
        assert hidden
        assert 9 in (known[:1] or hidden[:1]) or hidden[0] == 9, "the first cell comes first in its part"
        rectangle = min((known, hidden), key=lambda cells: _area(cells) - len(cells) if cells else 99)
        assert _area(rectangle) == len(rectangle), "neither part is a rectangle"
        shapes.add(given)
    assert (batch.given > 0).float().mean() == pytest.approx(0.5, abs=0.15)
    assert len(shapes) > 5
    assert batch.tokens == 128 * 16 - int(batch.given.sum())


def _area(cells: list[int]) -> int:
    """Area of the smallest rectangle of a 4×4 grid around these cells."""
    rows, cols = [cell // 4 for cell in cells], [cell % 4 for cell in cells]
    return (max(rows) - min(rows) + 1) * (max(cols) - min(cols) + 1)


def test_what_is_given_is_not_learnt() -> None:
    recipe = TransformerRecipe(per_class=1, openings=0, regions=1.0, grid=GRID, bfloat16=False)
    trainer = TransformerTrainer(*new_network(TINY), recipe, CPU)
    assert isinstance(trainer.model, ARPG)
    torch.nn.init.normal_(trainer.model.get_parameter("head.weight"), std=0.1)
    batch = draw_batch(codes(64), 16, recipe, 0)
    logits, wanted = AnyOrder(trainer.model, GRID)(trainer.model, batch.ids, batch.conditions, batch.orders)
    losses = -logits.log_softmax(-1).gather(-1, wanted[..., None]).squeeze(-1)
    learnt = torch.arange(wanted.shape[1]) >= batch.given[:, None]
    assert 0 < learnt.sum() < learnt.numel()
    assert trainer.step(batch).item() == pytest.approx((losses * learnt).sum().item() / batch.tokens, rel=1e-4)


def test_openings_are_other_pictures_drawn_no_further() -> None:
    recipe = TransformerRecipe(per_class=2, openings=3, opening=5, first_cell=9)
    source = torch.arange(640)[:, None].repeat(1, 16)
    batch, openings = draw_batch(source, 16, recipe, 7), draw_openings(source, 16, recipe, 7)
    assert openings.orders.shape == (48, 5)
    assert (openings.orders[:, 0] == 9).all()
    assert all(len(order.unique()) == 5 for order in openings.orders)
    assert torch.bincount(openings.ids[:, 0] % 16).tolist() == [3] * 16
    assert len(set(openings.ids[:, 0].tolist()) & set(batch.ids[:, 0].tolist())) < 8


def test_a_token_of_an_opening_weighs_as_much_as_any_other() -> None:
    recipe = TransformerRecipe(per_class=1, openings=2, opening=4, bfloat16=False)
    trainer = TransformerTrainer(*new_network(TINY), recipe, CPU)
    assert isinstance(trainer.model, ARPG)
    torch.nn.init.normal_(trainer.model.get_parameter("head.weight"), std=0.1)
    reference = copy.deepcopy(trainer.model)
    batch, openings = (draw(codes(64), 16, recipe, 0) for draw in (draw_batch, draw_openings))
    total = torch.zeros(())
    for part in (batch, openings):
        logits, wanted = AnyOrder(reference, GRID)(reference, part.ids, part.conditions, part.orders)
        total = total - logits.log_softmax(-1).gather(-1, wanted[..., None]).sum()
    (total / batch.orders.numel()).backward()
    torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
    trainer.step(batch, openings)
    for name, weight in trainer.model.named_parameters():
        expected = dict(reference.named_parameters())[name].grad
        assert expected is not None
        assert weight.grad is not None
        assert torch.allclose(weight.grad, expected, atol=1e-6), name


def test_an_epoch_shows_every_picture_once() -> None:
    drawn = torch.cat([shuffled_batch(6, 10, 0, step) for step in range(5)])  # batches straddle epochs
    for epoch in range(3):
        assert sorted(drawn[epoch * 10 : epoch * 10 + 10].tolist()) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:20].tolist()

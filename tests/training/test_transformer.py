"""Training of the transformers: what a step computes, the loss falls, an interrupted run gives the same result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import Engine, Request
from engine.codec.vq import VQModel
from engine.core.runner import StepLogits
from engine.models.arpg import ARPG
from engine.training.batches import TransformerRecipe, draw_batch
from engine.training.export import export_tokenizer, export_transformer, palette
from engine.training.forward import AnyOrder
from engine.training.loop import load_checkpoint, save_checkpoint
from engine.training.tokenizer import TokenizerTrainer
from engine.training.transformer import TransformerTrainer, new_network
from engine.training.world.shapes import THINGS
from tests.support.training import (
    CPU,
    GRID,
    TINY,
    TINY_ARPG,
    TINY_VQ,
    VQ_RECIPE,
    assert_same,
    codes,
    pictures,
    transformer_run,
)


def test_a_transformer_run_cut_in_two_is_the_run_in_one_piece(tmp_path: Path) -> None:
    recipe = TransformerRecipe(steps=20, per_class=1, openings=2, opening=3, warm_up=2)
    whole = TransformerTrainer(*new_network(TINY), recipe, CPU)
    transformer_run(whole, 6)
    first = TransformerTrainer(*new_network(TINY), recipe, CPU)
    transformer_run(first, 4)
    save_checkpoint(tmp_path / "arpg.pt", first.state())
    second = TransformerTrainer(*new_network(TINY), recipe, CPU)
    state = load_checkpoint(tmp_path / "arpg.pt", CPU)
    assert state is not None
    second.restore(state)
    transformer_run(second, 2)
    assert_same(second.state(), whole.state())


def test_transformer_steps_teach_the_classes() -> None:
    losses = transformer_run(
        TransformerTrainer(
            *new_network(TINY), TransformerRecipe(steps=60, per_class=1, openings=1, opening=4, warm_up=4), CPU
        ),
        60,
    )
    assert losses[0] == pytest.approx(np.log(24), rel=0.01)  # the head starts with zeros
    assert np.mean(losses[-5:]) < 0.65 * losses[0]


def test_the_training_pass_is_the_teacher_forced_pass() -> None:
    """The published loss golden holds for `ARPG.teacher_forced`; this compares training with it."""
    torch.manual_seed(0)
    model = ARPG(TINY_ARPG)
    ids = torch.randint(0, 24, (3, 16))
    classes = torch.tensor([0, 15, 16])
    orders = torch.rand(3, 16).argsort(1)
    expected = model.teacher_forced(ids, classes, orders, GRID)
    found, wanted = AnyOrder(model, GRID)(model, ids, classes, orders)
    assert torch.equal(wanted, ids.gather(1, orders))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("family", [{"family": "llamagen"}, {"family": "par", "regions": 4}])
def test_the_training_pass_of_a_fixed_order_gives_the_logits_of_drawing(family: dict[str, Any], tmp_path: Path) -> None:
    demo = TINY | family
    network, objective = new_network(demo)
    torch.manual_seed(1)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    export_transformer(tmp_path / "model", demo, network.state_dict(), TINY_VQ)
    export_tokenizer(tmp_path / "demo", VQModel(TINY_VQ).state_dict(), np.zeros((24, 4, 4, 3), np.uint8))
    steps: list[StepLogits] = []
    engine = Engine.load(tmp_path / "model", device="cpu", watch_logits=steps.append)
    network.half().float()  # the folder's weights are float16
    [tokens] = engine.generate([Request(class_label=5, guidance_scale=2.0)])
    ids = torch.from_numpy(tokens).long().flatten()[None]
    for branch, label in enumerate((5, 16)):
        logits, wanted = objective(network, ids, torch.tensor([label]), torch.arange(16)[None])
        drawn = torch.cat([step.logits[branch] for step in steps])
        assert (logits[0] - drawn).abs().max() <= 1e-4 * drawn.abs().max()
        assert torch.equal(wanted[0], ids[0, [cell for step in steps for cell in step.targets]])


@pytest.mark.parametrize("family", [{"family": "llamagen"}, {"family": "par", "regions": 4}])
def test_steps_teach_a_fixed_order_too(family: dict[str, Any]) -> None:
    recipe = TransformerRecipe(steps=60, per_class=1, openings=0, warm_up=4)
    trainer = TransformerTrainer(*new_network(TINY | family), recipe, CPU)
    losses = [trainer.step(draw_batch(codes(64), 16, recipe, n)).item() for n in range(60)]
    assert losses[0] == pytest.approx(np.log(24), rel=0.01)
    assert np.mean(losses[-5:]) < 0.65 * losses[0]


def test_an_exported_folder_draws_through_the_engine(tmp_path: Path) -> None:
    tokenizer = TokenizerTrainer(TINY_VQ, VQ_RECIPE, CPU)
    transformer = TransformerTrainer(*new_network(TINY), TransformerRecipe(), CPU)
    images = ((pictures(4) + 1) * 127.5).to(torch.uint8)
    with torch.inference_mode():
        maps = tokenizer.model.encode(pictures(4))
    patches = palette(maps.flatten(1), images, TINY_VQ)
    demo = TINY | {"defaults": {"steps": 4}}
    export_transformer(tmp_path, demo, transformer.averaged.values, TINY_VQ)
    export_tokenizer(tmp_path, tokenizer.averaged.values, patches)
    engine = Engine.load(tmp_path, device="cpu")
    assert [c.name for c in engine.model.classes] == [thing.name for thing in THINGS]
    assert np.array_equal(engine.codec.palette(), patches)
    [tokens] = engine.generate([Request(class_label=3, steps=engine.model.defaults.steps)])
    assert engine.codec.decode(tokens).shape == (16, 16, 3)

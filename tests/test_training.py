"""Training: what a step computes, that steps teach, and that a run cut in two is the run in one piece."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine import Engine, Request
from engine.models.arpg import ARPG, ARPGConfig
from engine.models.vq import VQConfig, VQModel
from engine.runner import StepLogits
from engine.training.batches import TransformerRecipe, draw_batch, draw_openings
from engine.training.export import export_tokenizer, export_transformer, palette
from engine.training.forward import rotation_table, training_logits
from engine.training.group_norm import quicken_group_norm
from engine.training.loop import (
    AveragedWeights,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
    shuffled_batch,
)
from engine.training.parallel import Team, run_team
from engine.training.shapes import THINGS
from engine.training.tokenizer import TokenizerRecipe, TokenizerTrainer
from engine.training.transformer import TransformerTrainer, new_network

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


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


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


def test_a_tokenizer_run_cut_in_two_is_the_run_in_one_piece(tmp_path: Path) -> None:
    whole = TokenizerTrainer(TINY_VQ, VQ_RECIPE, CPU)
    tokenizer_run(whole, 8)
    first = TokenizerTrainer(TINY_VQ, VQ_RECIPE, CPU)
    tokenizer_run(first, 5)
    save_checkpoint(tmp_path / "vq.pt", first.state())
    second = TokenizerTrainer(TINY_VQ, VQ_RECIPE, CPU)
    state = load_checkpoint(tmp_path / "vq.pt", CPU)
    assert state is not None
    second.restore(state)
    tokenizer_run(second, 3)
    assert_same(second.state(), whole.state())


def test_tokenizer_steps_bring_the_picture_nearer() -> None:
    errors = tokenizer_run(TokenizerTrainer(TINY_VQ, VQ_RECIPE, CPU), 24)
    assert sum(errors[-4:]) < 0.7 * sum(errors[:4])


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
    assert losses[0] == pytest.approx(np.log(24), rel=0.01)  # the head starts flat
    assert np.mean(losses[-5:]) < 0.65 * losses[0]


def test_the_training_pass_is_the_teacher_forced_pass() -> None:
    """The published loss golden holds for `ARPG.teacher_forced`; this ties training to it."""
    torch.manual_seed(0)
    model = ARPG(TINY_ARPG)
    ids = torch.randint(0, 24, (3, 16))
    classes = torch.tensor([0, 15, 16])
    orders = torch.rand(3, 16).argsort(1)
    expected = model.teacher_forced(ids, classes, orders, GRID)
    found = training_logits(model, ids, classes, orders, rotation_table(model, GRID))
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


def test_batches_are_balanced_and_classes_dropped_at_the_stated_rate() -> None:
    recipe = TransformerRecipe(per_class=4)
    source = codes(64)
    dropped = 0
    for step in range(50):
        batch = draw_batch(source, 16, recipe, step)
        labels = batch.ids[:, 0]
        assert torch.bincount(labels, minlength=16).tolist() == [4] * 16
        kept = batch.classes < 16
        assert torch.equal(batch.classes[kept], labels[kept])
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
    """Of the smallest rectangle of a 4×4 grid around these cells."""
    rows, cols = [cell // 4 for cell in cells], [cell % 4 for cell in cells]
    return (max(rows) - min(rows) + 1) * (max(cols) - min(cols) + 1)


def test_what_is_given_is_not_learnt() -> None:
    recipe = TransformerRecipe(per_class=1, openings=0, regions=1.0, grid=GRID, bfloat16=False)
    trainer = TransformerTrainer(*new_network(TINY), recipe, CPU)
    torch.nn.init.normal_(trainer.model.head.weight, std=0.1)
    batch = draw_batch(codes(64), 16, recipe, 0)
    logits = training_logits(trainer.model, batch.ids, batch.classes, batch.orders, rotation_table(trainer.model, GRID))
    wanted = batch.ids.gather(1, batch.orders)
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
    torch.nn.init.normal_(trainer.model.head.weight, std=0.1)
    reference = copy.deepcopy(trainer.model)
    batch, openings = (draw(codes(64), 16, recipe, 0) for draw in (draw_batch, draw_openings))
    total = torch.zeros(())
    for part in (batch, openings):
        logits = training_logits(reference, part.ids, part.classes, part.orders, rotation_table(reference, GRID))
        wanted = part.ids.gather(1, part.orders)
        total = total - logits.log_softmax(-1).gather(-1, wanted[..., None]).sum()
    (total / batch.orders.numel()).backward()
    torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
    trainer.step(batch, openings)
    for name, weight in trainer.model.named_parameters():
        expected = dict(reference.named_parameters())[name].grad
        assert expected is not None
        assert torch.allclose(weight.grad, expected, atol=1e-6), name


def test_an_epoch_shows_every_picture_once() -> None:
    drawn = torch.cat([shuffled_batch(6, 10, 0, step) for step in range(5)])  # batches straddle epochs
    for epoch in range(3):
        assert sorted(drawn[epoch * 10 : epoch * 10 + 10].tolist()) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:20].tolist()


def test_the_average_follows_the_weights_with_its_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    averaged = AveragedWeights(model, decay=0.9)
    nn.init.ones_(model.weight)
    for _ in range(3):
        averaged.update(model, step=1000)
    assert averaged.values["weight"].item() == pytest.approx(1 - 0.9**3)


def test_the_rate_warms_up_and_falls_to_its_floor() -> None:
    rates = [learning_rate(step, steps=100, warm_up=10, floor=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[100] == pytest.approx(0.1)


def test_the_quick_group_norm_has_torchs_gradients() -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 16)
    nn.init.normal_(norm.weight)
    x = (torch.randn(2, 16, 6, 5) + 1).contiguous(memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn_like(x)
    expected = torch.autograd.grad(norm(x), (x, norm.weight, norm.bias), upstream)
    quick = copy.deepcopy(norm)
    quicken_group_norm(quick)
    found = torch.autograd.grad(quick(x), (x, quick.weight, quick.bias), upstream)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def _meet(team: Team, out: Path) -> None:
    model = nn.Linear(2, 1)
    model.weight.grad = torch.full((1, 2), float(team.rank + 1))
    model.bias.grad = torch.full((1,), 10.0 * team.rank)
    team.average_gradients(model)
    found = {
        "weight": model.weight.grad,
        "bias": model.bias.grad,
        "share": team.share(torch.arange(6)),
        "sum": team.sum(torch.ones(2)),
        "first": team.from_first(torch.tensor([team.rank + 5])),
    }
    save_checkpoint(out / f"{team.size}-{team.rank}.pt", found)


def test_a_team_averages_gradients_and_cuts_the_batch(tmp_path: Path) -> None:
    run_team(_meet, 2, tmp_path)
    run_team(_meet, 1, tmp_path)
    first, second, alone = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("2-0", "2-1", "1-0"))
    for found in (first, second):
        assert found["weight"].tolist() == [[1.5, 1.5]]
        assert found["bias"].tolist() == [5.0]
        assert found["sum"].tolist() == [2.0, 2.0]
        assert found["first"].tolist() == [5]
    assert sorted([*first["share"].tolist(), *second["share"].tolist()]) == list(range(6))
    assert alone["weight"].tolist() == [[1.0, 1.0]]
    assert alone["share"].tolist() == list(range(6))


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


def test_the_palette_is_the_mean_patch_of_each_code() -> None:
    images = torch.zeros(1, 3, 8, 16, dtype=torch.uint8)
    images[:, :, :, 8:] = 200
    images[:, :, 4:, :8] = 100
    config = VQConfig(codebook_size=3, channel_mult=(1, 1, 1, 1))
    patches = palette(torch.tensor([[2, 1]]), images, config)
    assert patches.shape == (3, 4, 4, 3)
    assert (patches[1] == 200).all()
    assert (patches[2][:2] == 0).all()
    assert (patches[2][2:] == 100).all()

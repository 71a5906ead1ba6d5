"""Training on captions: what an encoder and a transformer compute together, and what they are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from engine import Engine, Request
from engine.codec.vq import VQModel
from engine.core.runner import StepLogits
from engine.models.arpg import ARPG
from engine.models.text_encoders import load_text_encoder
from engine.text.t5 import T5Encoder
from engine.training.batches import TransformerRecipe
from engine.training.demos import DEMO, DEMOS
from engine.training.export import export_tokenizer
from engine.training.loop import load_checkpoint, save_checkpoint
from engine.training.prompts.batches import (
    DROPPED,
    OPENINGS,
    PAIRS,
    SINGLES,
    WHOLE,
    CaptionBatches,
    Captioned,
    single_truth,
)
from engine.training.prompts.folder import ENCODER, export_prompted, weights_to_begin_with
from engine.training.prompts.network import AnyOrderOfText, PromptedARPG, encoder_config
from engine.training.prompts.vocabulary import END_ID, PAD_ID, UNKNOWN_ID, caption_tokenizer, padded
from engine.training.transformer import TransformerTrainer, new_network
from engine.training.world.scenes.captions import vocabulary
from engine.training.world.scenes.truth import Truth
from engine.training.world.world import scene, silhouettes
from tests.support.training import CPU, GRID, SIZES, TINY_VQ, assert_same

ROWS = 24
TINY_TEXT = {
    "name": "tiny-text",
    "family": "arpg-t2i",
    "grid": list(GRID),
    "transformer": {name: size for name, size in SIZES.items() if name != "num_classes"},
    "text": {"rows": ROWS, "width": 16},
    "encoder": {"d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
}
RECIPE = TransformerRecipe(steps=40, opening=3, warm_up=2, grid=GRID)
# The truth decides the tokens: two for each thing, striped.
TRUTHS = tuple(single_truth("train", index) for index in range(64))
CODES = torch.tensor([[truth.things[0].label, truth.things[0].label + 8] * 8 for truth in TRUTHS]).short()
SOURCE = Captioned(CODES, TRUTHS, name_alone=0.5)


def beside_itself(truth: Truth) -> Truth:
    [thing] = truth.things
    left, top, right, bottom = thing.box
    return replace(truth, things=(thing, replace(thing, box=(left + 40, top, right + 40, bottom))))


CROPS = replace(SOURCE, truths=tuple(map(beside_itself, TRUTHS)))


def random_network(seed: int = 1) -> PromptedARPG:
    network = PromptedARPG(TINY_TEXT)
    torch.manual_seed(seed)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network


@settings(max_examples=20, deadline=None)
@given(
    captions=st.lists(st.lists(st.integers(3, 100), max_size=ROWS - 1), min_size=1, max_size=4),
    length=st.integers(1, 16),
    seed=st.integers(0, 99),
)
def test_padding_changes_nothing(captions: list[list[int]], length: int, seed: int) -> None:
    """The logits of each caption are those of the plain network with this caption alone, without padding."""
    network = random_network()
    torch.manual_seed(seed)
    ids, orders = torch.randint(0, 24, (len(captions), 16)), torch.rand(len(captions), 16).argsort(1)
    conditions = padded([[*caption, END_ID] for caption in captions], ROWS)
    with torch.inference_mode():
        objective = AnyOrderOfText(network, GRID)
        found, wanted = objective(network, ids, conditions, orders[:, :length])
        for row, caption in enumerate(captions):
            features = network.text_encoder(torch.tensor([[*caption, END_ID]]))
            [expected] = network.transformer.teacher_forced(ids[row, None], features, orders[row, None], GRID)
            assert (found[row] - expected[:length]).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.equal(wanted, ids.gather(1, orders[:, :length]))


def test_a_dropped_caption_has_the_last_unconditional_rows() -> None:
    network = random_network()
    caption = padded([[5, 6, END_ID]], ROWS)
    own, whole = torch.where(caption != PAD_ID, ~caption, caption), ~caption
    rows, padding = network.condition(torch.cat([own, whole]))
    null = network.transformer.cls_embedding(network.transformer.cls_embedding.uncond_embedding)
    assert padding.sum(1).tolist() == [ROWS - 3, 0]
    assert torch.allclose(rows[0, -3:], null[-3:])
    assert torch.allclose(rows[1], null)


def test_the_tokenizer_knows_the_words_of_captions_and_no_others() -> None:
    tokenizer = caption_tokenizer()
    for word in vocabulary():
        assert UNKNOWN_ID not in tokenizer.encode(word).ids
    assert tokenizer.encode("A red mug, left of a Tree.").tokens == [
        "a",
        "red",
        "mug",
        ",",
        "left",
        "of",
        "a",
        "tree",
        "</s>",
    ]
    assert tokenizer.encode("a shiny mug").ids[1] == UNKNOWN_ID


def test_each_source_has_its_share_of_a_batch() -> None:
    """Crops whose label is even show two things."""
    two = tuple(truth if truth.things[0].label % 2 else beside_itself(truth) for truth in TRUTHS)
    batches = CaptionBatches(SOURCE, Captioned(CODES + 100, two, 0.0), RECIPE, ROWS)
    whole, openings = batches(3)
    assert whole.orders.shape == (WHOLE, 16)
    assert openings.orders.shape == (OPENINGS, 3)
    firsts = torch.cat([batches(step)[1].ids[:, 0] for step in range(30)])
    assert (firsts < 100).float().mean() == SINGLES
    shown = torch.arange(0, 16, 2) + 100
    others = 1 - SINGLES - PAIRS
    assert torch.isin(firsts, shown).float().mean() == pytest.approx(PAIRS + others / 2, abs=0.05)
    assert_same(batches(3)[0].conditions, whole.conditions)
    assert not torch.equal(batches(4)[0].conditions, whole.conditions)


def test_captions_are_dropped_at_the_stated_rate() -> None:
    batches = CaptionBatches(SOURCE, CROPS, RECIPE, ROWS)
    conditions = torch.cat([part.conditions for step in range(20) for part in batches(step)])
    dropped = conditions[:, -1] < 0
    rate = sum(share * rate for share, rate in zip((SINGLES, 1 - SINGLES - PAIRS, PAIRS), DROPPED, strict=True))
    assert dropped.float().mean() == pytest.approx(rate, abs=0.03)
    everywhere = (conditions[dropped] < 0).all(1)
    assert everywhere.float().mean() == pytest.approx(0.5, abs=0.15)
    assert (conditions[~dropped] >= 0).all()
    assert (torch.where(conditions < 0, ~conditions, conditions)[:, -1] == END_ID).all()
    assert (conditions == UNKNOWN_ID).any(1).float().mean() == pytest.approx(0.05, abs=0.03)


def test_mostly_captions_of_any_crops_are_dropped() -> None:
    batches = CaptionBatches(SOURCE, replace(CROPS, codes=CODES + 100), RECIPE, ROWS)
    openings = [batches(step)[1] for step in range(20)]
    crops = torch.cat([batch.ids[:, 0] >= 100 for batch in openings])
    dropped = torch.cat([batch.conditions[:, -1] < 0 for batch in openings])
    assert dropped[~crops].float().mean() < 0.1 < 0.2 < dropped[crops].float().mean()


def test_a_caption_that_is_too_long_is_drawn_again() -> None:
    batches = CaptionBatches(SOURCE, CROPS, RECIPE, 4)
    for step in range(3):
        conditions = batches(step)[0].conditions
        assert (torch.where(conditions < 0, ~conditions, conditions)[:, -1] == END_ID).all()


def test_the_truth_of_a_single_picture_is_what_it_shows() -> None:
    masks = silhouettes([scene("train", index) for index in range(16)])
    for mask, truth in zip(masks, TRUTHS, strict=False):
        [thing] = truth.things
        columns = np.flatnonzero(mask.any(0))
        assert thing.middle == pytest.approx((columns[0] + columns[-1] + 1) / 2, abs=9)
        assert 0.4 < mask.sum() / thing.pixels < 2.5
        assert thing.named


def test_steps_teach_the_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WHOLE", "OPENINGS"):
        monkeypatch.setattr(f"engine.training.prompts.batches.{name}", 16)
    recipe = replace(RECIPE, bfloat16=False, steps=120)
    batches = CaptionBatches(SOURCE, CROPS, recipe, ROWS)
    trainer = TransformerTrainer(*new_network(TINY_TEXT), recipe, CPU)
    losses = [trainer.step(*batches(step)).item() for step in range(120)]
    assert losses[0] == pytest.approx(np.log(24), rel=0.01)
    assert np.mean(losses[-5:]) < 0.65 * losses[0]


def test_a_run_cut_in_two_is_the_run_in_one_piece(tmp_path: Path) -> None:
    batches = CaptionBatches(SOURCE, CROPS, RECIPE, ROWS)
    whole, first, second = (TransformerTrainer(*new_network(TINY_TEXT), RECIPE, CPU) for _ in range(3))
    for trainer, steps in ((whole, 4), (first, 2)):
        for step in range(steps):
            trainer.step(*batches(step))
    save_checkpoint(tmp_path / "run.pt", first.state())
    state = load_checkpoint(tmp_path / "run.pt", CPU)
    assert state is not None
    second.restore(state)
    for step in (2, 3):
        second.step(*batches(step))
    assert_same(second.state(), whole.state())


def test_training_goes_on_from_the_folder_that_it_wrote(tmp_path: Path) -> None:
    network = random_network()
    export_prompted(tmp_path, TINY_TEXT, network.state_dict(), TINY_VQ)
    encoder = load_text_encoder(tmp_path, ENCODER, device=CPU, dtype=torch.float32)
    assert encoder.read("a shiny red mug").unknown == ("shiny",)
    trainer = TransformerTrainer(*new_network(TINY_TEXT), RECIPE, CPU)
    trainer.begin_with(weights_to_begin_with(tmp_path, DEMO, TINY_TEXT))
    expected = {name: value.half().float() for name, value in network.state_dict().items()}
    assert_same(trainer.model.state_dict(), expected)
    assert_same(trainer.averaged.values, expected)
    ids = encoder.read("a red mug").ids
    written = T5Encoder(encoder_config(TINY_TEXT))
    written.load_state_dict({name: v.float() for name, v in load_file(tmp_path / ENCODER["weights"]).items()})
    features = encoder.encode("a red mug").rows
    assert np.allclose(features, written(torch.tensor([ids]))[0].detach(), atol=1e-5)


def test_the_first_training_begins_with_the_class_demo(tmp_path: Path) -> None:
    demo = DEMOS["arpg-t2i"]
    trainer = TransformerTrainer(*new_network(demo), RECIPE, CPU)
    trainer.begin_with(weights_to_begin_with(tmp_path, DEMO, demo))
    shipped = load_file(DEMO / "arpg.safetensors")
    own = trainer.model.state_dict()
    kept = [name for name in shipped if name != "embeddings.weight"]
    assert len(kept) > 60
    for name in kept:
        assert torch.equal(own[f"transformer.{name}"], shipped[name].float())
    tokens = own["transformer.embeddings.weight"]
    assert torch.equal(tokens, shipped["embeddings.weight"][: len(tokens)].float())
    with pytest.raises(ValueError, match="other sizes"):
        TransformerTrainer(*new_network(TINY_TEXT), RECIPE, CPU).begin_with({"transformer.norm.weight": torch.ones(3)})
    assert isinstance(trainer.model, PromptedARPG)
    assert isinstance(trainer.model.transformer, ARPG)


@pytest.mark.parametrize("prompt", ["a red mug", None])
def test_the_training_pass_gives_the_logits_of_drawing(prompt: str | None, tmp_path: Path) -> None:
    network = random_network()
    export_prompted(tmp_path / "model", TINY_TEXT, network.state_dict(), TINY_VQ)
    export_tokenizer(tmp_path / "demo", VQModel(TINY_VQ).state_dict(), np.zeros((24, 4, 4, 3), np.uint8))
    steps: list[StepLogits] = []
    engine = Engine.load(tmp_path / "model", device="cpu", watch_logits=steps.append)
    assert engine.text_encoder is not None
    network.half().float()  # the folder's weights are float16
    features = None if prompt is None else engine.text_encoder.encode(prompt)
    request = Request(prompt=features, guidance_scale=2.0, steps=16, content_attention="causal")
    [tokens] = engine.generate([request])
    ids = torch.from_numpy(tokens).long().flatten()[None]
    order = torch.tensor([[cell for step in steps for cell in step.targets]])
    caption = padded([[END_ID] if prompt is None else caption_tokenizer().encode(prompt).ids], ROWS)
    without = ~caption if prompt is None else torch.where(caption != PAD_ID, ~caption, caption)
    branches = [without] if prompt is None else [caption, without]
    objective = AnyOrderOfText(network, GRID)
    for branch, condition in enumerate(branches):
        logits, wanted = objective(network, ids, condition, order)
        drawn = torch.cat([step.logits[branch] for step in steps])
        assert (logits[0] - drawn).abs().max() <= 1e-4 * drawn.abs().max()
        assert torch.equal(wanted[0], ids[0, order[0]])

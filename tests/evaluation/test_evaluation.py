"""How models are measured: what the distances mean, and that every command runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

from engine import Engine, Request
from engine.evaluation import samples
from engine.evaluation.__main__ import STEP_SWEEP, axes_of
from engine.evaluation.figures import PAPER, contact_sheet, moments
from engine.evaluation.metrics import frechet, most_agreeing, nearest, precision_recall
from engine.evaluation.quality import Copying, measure
from engine.training.classifier import Classifier, classify, load_classifier
from engine.training.demos import CLASSIFIER, DEMO
from engine.training.loop import save_half
from engine.training.world.shapes import THINGS
from engine.training.world.world import render, scene
from service.cli.main import main as arpg
from tests.evaluation.commands import say
from tests.support.tiny import random_folder


def features(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(6, 6, generator=torch.Generator().manual_seed(99))
    return torch.randn(count, 6, generator=generator) @ mixing + shift


def test_the_frechet_distance_is_the_published_one() -> None:
    a, b = features(80, 1).double(), features(90, 2, shift=0.7).double()
    expected = (a.mean(0) - b.mean(0)).square().sum() + torch.cov(a.T).trace() + torch.cov(b.T).trace()
    expected -= 2 * np.trace(scipy.linalg.sqrtm((torch.cov(a.T) @ torch.cov(b.T)).numpy())).real
    assert frechet(a, b) == pytest.approx(float(expected), rel=1e-9)


def test_the_frechet_distance_is_nothing_to_itself_and_the_square_of_a_shift() -> None:
    a = features(50, 3)
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet(a, a + 2) == pytest.approx(4 * 6, rel=1e-6)


def test_the_frechet_distance_bears_fewer_pictures_than_features() -> None:
    a, b = features(4, 4), features(4, 5)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-6)
    assert frechet(a, b) > 0


def test_precision_falls_with_strange_pictures_and_recall_with_missing_ones() -> None:
    generator = torch.Generator().manual_seed(6)
    left, right, nowhere = (torch.randn(60, 4, generator=generator) * 0.1 + place for place in (0.0, 5.0, 50.0))
    both = torch.cat([left, right])
    assert precision_recall(both, both) == (1.0, 1.0)
    precision, recall = precision_recall(both, left.flip(0))
    assert precision == 1.0
    assert recall == pytest.approx(0.5, abs=0.05)
    precision, recall = precision_recall(left, torch.cat([left, nowhere]))
    assert precision == pytest.approx(0.5, abs=0.05)
    assert recall == 1.0


def test_nearest_neighbours_are_found_across_the_parts_of_a_large_set() -> None:
    among = features(2500, 7)
    distances, indices = nearest(among[[3, 2400]] + 1e-4, among)
    assert indices.tolist() == [3, 2400]
    assert float(distances.max()) < 1e-3


def test_agreement_is_that_with_the_most_similar_map() -> None:
    among = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=torch.int16)
    assert most_agreeing(torch.tensor([[5, 6, 0, 8], [0, 0, 0, 0]], dtype=torch.int16), among).tolist() == [0.75, 0.0]


def test_copies_stand_out_from_unseen_pictures() -> None:
    unseen = Copying(torch.linspace(1, 2, 200), torch.linspace(0.2, 0.4, 200))
    copies = Copying(torch.full((10,), 0.01), torch.full((10,), 1.0))
    assert copies.share_nearer(unseen) == copies.share_agreeing(unseen) == 1.0
    assert unseen.share_nearer(unseen) == pytest.approx(0.01, abs=0.005)
    assert unseen.share_agreeing(unseen) == pytest.approx(0.01, abs=0.005)


def test_the_frozen_classifier_knows_unseen_renders() -> None:
    pictures = torch.from_numpy(render([scene("test", i) for i in range(16)])).permute(0, 3, 1, 2)
    predictions = classify(load_classifier(DEMO / CLASSIFIER, torch.device("cpu")), pictures)
    quality = measure(predictions, torch.arange(16), predictions)
    assert quality.accuracy >= 15 / 16
    assert quality.by_class["mug"] in (0.0, 1.0)
    assert (quality.precision, quality.recall) == (1.0, 1.0)


def test_the_shipped_model_draws_what_it_is_asked_for(tmp_path: Path) -> None:
    drawn = samples.draw(DEMO, tmp_path, 2, {})
    predictions = classify(load_classifier(DEMO / CLASSIFIER, torch.device("cpu")), drawn.pictures)
    assert predictions.share(drawn.labels) >= 30 / 32


def test_a_contact_sheet_holds_every_picture_under_its_column() -> None:
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in range(10, 70, 10)]
    sheet = np.asarray(contact_sheet(pictures, 3, ["a", "b", "c"]))
    assert [sheet[32 + row * 12 + 4, 4 + column * 12 + 4, 0] for row in range(2) for column in range(3)] == [
        10, 20, 30, 40, 50, 60,
    ]  # fmt: skip
    assert contact_sheet(pictures, 3).height < len(sheet)


def test_moments_fill_up_and_end_with_the_picture(tmp_path: Path) -> None:
    engine = Engine.load(random_folder(tmp_path))
    request = Request(class_label=1, seed=3, steps=8)
    frames = moments(engine, request, 4)
    blank = [float((frame == PAPER).all(-1).mean()) for frame in frames[:-1]]
    assert len(frames) == 4
    assert blank == sorted(blank, reverse=True)
    assert blank[0] > blank[-1] > 0
    assert np.array_equal(frames[-1], engine.codec.decode(engine.generate([request])[0]))


def test_every_command_answers(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "**samples**" in say(runs, capsys, "quality", "--each", "1")
    compared = say(runs, capsys, "sweep", "--each", "1", "--steps", "2", "4", "--schedule", "arccos")
    assert "| 2 | arccos |" in compared
    assert "| 4 | arccos |" in compared
    assert "| 10 |" in say(runs, capsys, "curve", "--each", "1")
    assert {path.name for path in (runs / "figures").iterdir()} == {"quality.png", "sweep.png", "curve.png"}
    say(runs, capsys, "sheet", "samples", "--each", "1", "--out", str(runs / "sheet.png"))
    say(runs, capsys, "strip", "mug", "--moments", "4", "--out", str(runs / "strip.png"))
    with Image.open(runs / "sheet.png") as sheet, Image.open(runs / "strip.png") as strip:
        assert len(THINGS) * 16 < sheet.width < len(THINGS) * 24
        assert 4 * 16 < strip.width < 4 * 24


def test_a_sweep_of_nothing_is_the_papers_under_what_is_given() -> None:
    assert axes_of({}) == STEP_SWEEP
    assert axes_of({"temperature": [1.0]}) == STEP_SWEEP | {"temperature": [1.0]}
    assert axes_of({"guidance_scale": [1.0, 2.0]}) == {"guidance_scale": [1.0, 2.0]}


def test_samples_are_drawn_once_for_the_same_weights_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_folder(tmp_path / "model", num_classes=len(THINGS))
    kept = tmp_path / "kept"
    first = samples.draw(model, kept, 1, {"steps": 2})
    assert samples.draw(model, kept, 1, {"steps": 4}).rows != first.rows

    def refuse(*_: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(samples, "_draw", refuse)
    assert torch.equal(samples.draw(model, kept, 1, {"steps": 2}).tokens, first.tokens)
    weights = next(model.glob("*arpg*"))
    weights.write_bytes(weights.read_bytes())  # the same bytes: the same samples
    samples.draw(model, kept, 1, {"steps": 2})
    with pytest.raises(AssertionError, match="drawn again"):
        samples.draw(model, kept, 1, {"steps": 3})


def test_kept_weights_load_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = Classifier()
    save_half(classifier.state_dict(), tmp_path / "judge.safetensors")
    again = load_classifier(tmp_path / "judge.safetensors", torch.device("cpu"))
    assert torch.allclose(again.head.weight, classifier.head.weight, atol=1e-3)


@pytest.mark.parametrize(("command", "name"), [("train", "train"), ("evaluate", "evaluate"), ("judge", "evaluate")])
def test_the_laboratory_answers_to_the_arpg_command(
    command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        arpg([command, "--help"])
    assert left.value.code == 0
    assert f"usage: arpg {name}" in capsys.readouterr().out

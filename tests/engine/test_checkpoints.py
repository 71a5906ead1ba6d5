"""Checkpoints load under the public names and containers; errors name what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.models import registry
from engine.models.arpg import ARPG, ARPG_SIZES, ARPGConfig
from engine.models.checkpoint import CheckpointError, fit, load_state
from tests.support.tiny import GOLDEN_TOKENIZER, GOLDEN_TRANSFORMER, golden, golden_folder

STATE = golden("arpg_tiny.weights")


def load(folder: Path) -> registry.LoadedModel:
    return registry.load(folder, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("container", ["model", "module", "state_dict", None])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_public_containers_are_read(tmp_path: Path, container: str | None, suffix: str) -> None:
    path = tmp_path / f"arpg{suffix}"
    torch.save({container: STATE, "optimizer": {"lr": 1.0}} if container else STATE, path)
    state = load_state(path)
    fit(ARPG(ARPGConfig(**GOLDEN_TRANSFORMER)), state, path)
    assert state.keys() == STATE.keys()


def test_statistics_of_training_are_passed_over(tmp_path: Path) -> None:
    fit(ARPG(ARPGConfig(**GOLDEN_TRANSFORMER)), STATE | {"freqs_cis": torch.zeros(3)}, tmp_path)


def test_keys_and_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = {key: value for key, value in STATE.items() if key != "layers.to_k.weight"}
    state |= {"layers.extra.weight": torch.zeros(1), "norm.weight": torch.zeros(65)}
    with pytest.raises(CheckpointError) as caught:
        fit(ARPG(ARPGConfig(**GOLDEN_TRANSFORMER)), state, tmp_path / "bad.pt")
    message = str(caught.value)
    assert "bad.pt does not fit ARPG" in message
    assert "missing: layers.to_k.weight" in message
    assert "unexpected: layers.extra.weight" in message
    assert "norm.weight (65,) instead of (64,)" in message


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must never run",))


@pytest.mark.parametrize("kind", ["hostile", "truncated", "noise", "not a state dict", "lying suffix", "absent"])
def test_unusable_files_are_refused_and_nothing_in_them_runs(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ("arpg.safetensors" if kind == "lying suffix" else "arpg.pt")
    if kind == "hostile":
        torch.save({"model": Hostile()}, path)
    elif kind == "truncated":
        torch.save(STATE, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "noise":
        path.write_bytes(bytes(range(256)) * 20)
    elif kind == "not a state dict":
        torch.save({"epoch": 3}, path)
    elif kind == "lying suffix":
        torch.save(STATE, path)
    with pytest.raises(CheckpointError, match=r"arpg\.(pt|safetensors)"):
        load_state(path)
    assert "never run" not in capsys.readouterr().out


def test_a_model_folder_is_read_whole(tmp_path: Path) -> None:
    loaded = load(golden_folder(tmp_path / "golden"))
    assert loaded.card.grid == (4, 4)
    assert loaded.card.stride == 4
    assert (loaded.card.height, loaded.card.width) == (16, 16)
    assert len(loaded.card.classes) == 10
    assert type(loaded.card).from_json(json.loads(json.dumps(loaded.card.to_json()))) == loaded.card


def test_classes_without_names_are_called_by_their_numbers(tmp_path: Path) -> None:
    folder = golden_folder(tmp_path / "golden")
    description = json.loads((folder / "model.json").read_text())
    del description["classes"]
    (folder / "model.json").write_text(json.dumps(description))
    assert [c.name for c in load(folder).card.classes] == [str(label) for label in range(10)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"family": "bart"}, "bart"),
        ({"grid": None}, "model.json"),
        ({"transformer": {"dim": 64}}, "n_layer"),
        ({"transformer": GOLDEN_TRANSFORMER | {"n_layer": 6}}, "missing: layers.cross_dec.2.attn.proj.weight"),
        ({"transformer": "huge"}, "transformer: there is no size huge; there are L, XL"),
        ({"transformer": GOLDEN_TRANSFORMER | {"n_heads": 4}}, "transformer: there is no n_heads; did you mean n_head"),
        ({"tokenizer": GOLDEN_TOKENIZER | {"channel": 3}}, "tokenizer: there is no channel; did you mean channels"),
        ({"defaults": {"stepz": 3}}, "defaults: there is no stepz; did you mean steps?"),
        ({"stepz": 3}, "there is no stepz; it may have bytes, classes, "),
        ({"license": "MIT"}, "there is no license; did you mean licence?"),
        ({"classes": [{"label": 0, "name": "one of ten"}]}, "labels must be 0 … 9"),
        ({"transformer": GOLDEN_TRANSFORMER | {"n_head": 3}}, "not a multiple of 4 · n_head 3"),
        ({"transformer": GOLDEN_TRANSFORMER | {"vocab_size": 64}}, "draws 64 codes, the tokenizer has 48"),
        ({"defaults": {"steps": 999}}, "steps: must be between 1 and 256"),
        ({"task_defaults": {"outpaint": {"stepz": 3}}}, "task_defaults.outpaint: .*stepz"),
        ({"task_defaults": {"outpaint": {"steps": 999}}}, "steps: must be between 1 and 256"),
        ({"task_defaults": {"upscale": {"steps": 9}}}, "task_defaults: upscale: this family does generate, inpaint"),
        ({"example_prompts": ["a red mug"]}, "example_prompts: this family takes no text"),
        ({"name": "golden one"}, "name: 'golden one'"),
        ({"palette": "nowhere.png"}, "nowhere.png"),
        ({"tokenizer": GOLDEN_TOKENIZER}, "KeyError: 'weights'"),
        ({"weights": "nowhere.pt"}, "nowhere.pt: no such file"),
    ],
)
def test_a_model_folder_that_does_not_fit_is_refused_by_name(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    folder = golden_folder(tmp_path / "golden")
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(description | change))
    with pytest.raises(CheckpointError, match=says):
        load(folder)


def test_an_unknown_model_is_refused_with_the_names_that_are_known() -> None:
    with pytest.raises(CheckpointError, match="neither a model's name"):
        registry.find("no-such-model")
    with pytest.raises(CheckpointError, match=r"did you mean arpg-xl or arpg-xxl"):
        registry.find("arpg-xll")


@pytest.mark.parametrize(("size", "millions"), [("L", 319.845376), ("XL", 719.0), ("XXL", 1302.4)])
def test_published_sizes_have_the_published_parameter_counts(size: str, millions: float) -> None:
    with torch.device("meta"):
        network = ARPG(ARPG_SIZES[size])
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_weights_stored_in_half_precision_load(tmp_path: Path) -> None:
    folder = golden_folder(tmp_path / "golden")
    (folder / "arpg.safetensors").unlink()
    save_file({key: value.half() for key, value in STATE.items()}, folder / "arpg.safetensors")
    assert next(load(folder).network.parameters()).dtype == torch.float32

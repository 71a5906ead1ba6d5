"""`arpg doctor` with models that can't be loaded, or not yet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.models.model_index import known_folders
from tests.cli.doctor.examining import examined, fault, faults
from tests.support.hub import Hub


def test_checkpoints_that_can_not_be_loaded(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, damage, says in (
        ("cut", lambda folder: cut(next(folder.glob("*.safetensors"))), "not a readable checkpoint"),
        ("gone", lambda folder: next(folder.glob("*.safetensors")).unlink(), "no such file"),
        ("other", lambda folder: (folder / "model.json").write_text("{"), "model.json"),
        ("layers", lambda folder: edit(folder, "transformer", n_layer=3), "does not fit"),
    ):
        folder = tmp_path / name
        shutil.copytree(model, folder)
        damage(folder)
        status, found = examined(capsys, "--model", str(folder))
        assert (status, faults(found)) == (1, {f"checkpoint {folder}"})
        fault(found, f"checkpoint {folder}", says, "model.json")
    status, found = examined(capsys, "--model", "arpg-xll")
    assert status == 1
    fault(found, "checkpoint arpg-xll", "did you mean arpg-xl", "`arpg models` lists")


def test_a_public_model_that_is_not_fetched_yet(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, found = examined(capsys, "--model", "arpg-l")
    assert status == 0
    fault(found, "checkpoint arpg-l", "not fetched yet: hub:hp-l33/ARPG/arpg_300m.pt", "first loaded", "warning")
    assert hub.downloads == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    status, found = examined(capsys, "--model", "arpg-l")
    assert status == 1
    fault(found, "checkpoint arpg-l", "HF_HUB_OFFLINE is set", "fetch them once without it")
    assert "arpg-l" in known_folders()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(folder: Path, part: str, **changes: Any) -> None:
    data = json.loads((folder / "model.json").read_text())
    data[part] |= changes
    (folder / "model.json").write_text(json.dumps(data))

"""`arpg models`: what can be loaded by name, and what of it is here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.models.hub import fetch
from engine.models.model_index import HubFile, known_folders
from service.cli.main import main
from tests.support.hub import Hub, local_hub

PUBLIC = [name for name in known_folders() if not name.startswith("demo")]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with local_hub(tmp_path / "cache", monkeypatch) as server:
        yield server


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert main(["models", "--json"]) == 0
    return {model["name"]: model for model in json.loads(capsys.readouterr().out)}


def test_the_listing_knows_what_is_here(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    before = listed(capsys)
    assert before["demo"]["state"] == "shipped"
    assert {before[name]["state"] for name in PUBLIC} == {"not cached"}
    assert before["arpg-l"] | {"description": ""} == {
        "name": "arpg-l", "family": "arpg", "description": "", "licence": "MIT (code)", "parameters": 319_845_376,
        "grid": [16, 16], "height": 256, "width": 256, "weights": "hub:hp-l33/ARPG/arpg_300m.pt",
        "tokenizer_weights": "hub:FoundationVision/LlamaGen/vq_ds16_c2i.pt", "text_encoder_weights": None,
        "size": 1_280_000_000, "state": "not cached",
    }  # fmt: skip

    hub.put("FoundationVision/LlamaGen", "vq_ds16_c2i.pt", b"a tokenizer")
    hub.put("hp-l33/ARPG", "arpg_300m.pt", b"a transformer")
    fetch(HubFile("FoundationVision/LlamaGen", "vq_ds16_c2i.pt"))
    classes = [name for name in PUBLIC if "t2i" not in name]  # the models with text have a tokenizer of their own
    assert {model["state"] for name, model in listed(capsys).items() if name in classes} == {"partly cached"}
    fetch(HubFile("hp-l33/ARPG", "arpg_300m.pt"))
    after = listed(capsys)["arpg-l"]
    assert (after["state"], after["size"]) == ("cached", len(b"a transformer"))


def test_a_model_with_text_is_cached_when_all_parts_of_its_encoder_are(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    name, t5, ours = "llamagen-t2i-xl-256", "google/flan-t5-xl", "peizesun/llamagen_t2i"
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = json.dumps({"weight_map": shards}).encode()
    files = [(ours, "t2i_XL_stage1_256.pt"), (ours, "vq_ds16_t2i.pt"), (t5, "config.json"), (t5, "tokenizer.json"),
             (t5, "model.safetensors.index.json"), *((t5, shard) for shard in shards.values())]  # fmt: skip
    for repository, path in files:
        hub.put(repository, path, index if path.endswith("index.json") else b"content")
    states = []
    for repository, path in files:
        states.append(listed(capsys)[name]["state"])
        fetch(HubFile(repository, path))
    assert states == ["not cached"] + ["partly cached"] * 6
    assert listed(capsys)[name]["state"] == "cached"
    assert listed(capsys)[name]["text_encoder_weights"] == "hub:google/flan-t5-xl/model.safetensors.index.json"


def test_the_table_says_plainly_what_has_no_licence(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    par = [line for line in lines if line.startswith("par-")]
    assert len(par) == 4
    assert all("none given" in line and "Epiphqny/PAR" in line for line in par)
    assert any(line.startswith("none given: the repository states no licence") for line in lines)


def test_the_listing_needs_neither_torch_nor_a_network(hub: Hub, tmp_path: Path) -> None:
    hub.close()
    script = "import sys; from service.cli.main import main; main(['models']); sys.exit('torch' in sys.modules)"
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "llamagen-b-256" in done.stdout

"""Models by name: fetched once from the hub, checked, and loaded like a folder; errors say what to do."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from engine.codec.vq import VQConfig
from engine.models import registry
from engine.models.checkpoint import CheckpointError
from engine.models.families import FAMILIES
from engine.models.hub import fetch, weights_file
from engine.models.model_index import HubFile, description, known_folders, on_disk, weights_of
from engine.models.text_encoders import load_text_encoder
from engine.request import TextSizes
from tests.support.hub import Hub, local_hub
from tests.support.tiny import GOLDEN, golden_folder, random_t5, save_shards

FILE = HubFile("someone/tiny", "arpg.safetensors")
CONTENT = (GOLDEN / "arpg_tiny.weights.safetensors").read_bytes()
PUBLIC = [name for name in known_folders() if not name.startswith("demo")]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one file, and an empty cache. A test of the command line covers the environment."""
    with local_hub(tmp_path / "cache", monkeypatch) as server:
        server.put(FILE.repository, FILE.path, CONTENT)
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface-hub retries after seconds; here at once."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


words = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,8}", fullmatch=True)


@given(owner=words, name=words, path=st.lists(words, min_size=1, max_size=3), revision=st.none() | words)
def test_a_reference_reads_back_as_it_was_written(owner: str, name: str, path: list[str], revision: str | None) -> None:
    file = HubFile(f"{owner}/{name}", "/".join(path), revision)
    assert HubFile.parse(str(file)) == file


@pytest.mark.parametrize(
    "reference",
    ["hub:", "hub:owner/name", "hub:owner/name/", "hub:owner//file.pt", "hub:owner/name/../file.pt", "hub:o/n@/f.pt",
     "hub:owner/name/file.pt?x=1", "hub:/etc/passwd", "hub:owner/name/a//b"],
)  # fmt: skip
def test_what_is_no_reference_is_refused(tmp_path: Path, reference: str) -> None:
    with pytest.raises(ValueError, match="does not read hub:owner/name/file"):
        weights_of(tmp_path, {"weights": reference})


def test_a_file_is_downloaded_once(hub: Hub) -> None:
    assert on_disk(FILE) is None
    first = fetch(FILE)
    assert first.read_bytes() == CONTENT
    assert fetch(FILE) == first == on_disk(FILE)
    assert hub.downloads == [FILE.path]


def test_a_file_that_changed_on_the_hub_is_downloaded_again_unless_its_revision_is_pinned(hub: Hub) -> None:
    hub.put("someone/tiny", "arpg.safetensors", b"the first", revision="v1")
    pinned = HubFile.parse("hub:someone/tiny@v1/arpg.safetensors")
    assert fetch(pinned).read_bytes() == b"the first"
    assert fetch(FILE).read_bytes() == CONTENT
    hub.put("someone/tiny", "arpg.safetensors", b"the third")
    assert fetch(FILE).read_bytes() == b"the third"
    assert fetch(pinned).read_bytes() == b"the first"


def test_offline_the_cache_is_all_there_is(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(FILE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(FILE) == path
    hub.put("someone/tiny", "other.pt", b"never seen")
    with pytest.raises(CheckpointError, match=r"hub:someone/tiny/other\.pt: not in the cache .* HF_HUB_OFFLINE is set"):
        fetch(HubFile("someone/tiny", "other.pt"))


def test_without_a_network_the_cache_still_serves_at_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface-hub alone would repeat each request for half a minute."""
    path = fetch(FILE)
    hub.close()
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"it waits for {seconds} s"))
    assert fetch(FILE) == path
    with pytest.raises(CheckpointError, match=rf"other\.pt: not in the cache, and {hub.endpoint} can't be asked"):
        fetch(HubFile("someone/tiny", "other.pt"))


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("hub:someone/tiny/absent.pt", r"no such file in the repository: .*/someone/tiny/tree/main lists them"),
        ("hub:someone/tiny@v9/arpg.safetensors", r"no revision v9 in the repository"),
        ("hub:nobody/nothing/arpg.safetensors", r"no such repository .*, or a private one: then set HF_TOKEN"),
        ("hub:someone/gated/arpg.safetensors", r"accept the terms on .*/someone/gated and set HF_TOKEN"),
    ],
)
def test_what_the_hub_does_not_give_is_refused_by_name(hub: Hub, reference: str, says: str) -> None:
    hub.gated.add("someone/gated")
    with pytest.raises(CheckpointError, match=f"{reference}: {says}"):
        fetch(HubFile.parse(reference))
    assert on_disk(HubFile.parse(reference)) is None


@pytest.mark.usefixtures("impatient")
def test_half_a_file_is_never_taken_for_a_whole_one(hub: Hub) -> None:
    hub.cut_short = True
    with pytest.raises(CheckpointError, match=r"hub:someone/tiny/arpg\.safetensors: the download failed"):
        fetch(FILE)
    assert on_disk(FILE) is None
    hub.cut_short = False
    assert fetch(FILE).read_bytes() == CONTENT


def test_the_checksum_decides(hub: Hub, tmp_path: Path) -> None:
    right, wrong = hashlib.sha256(CONTENT).hexdigest(), hashlib.sha256(b"another").hexdigest()
    (tmp_path / "local.safetensors").write_bytes(CONTENT)
    for reference in (str(FILE), "local.safetensors"):
        path = weights_file(tmp_path, {"weights": reference, "sha256": right})
        assert path.read_bytes() == CONTENT
        with pytest.raises(CheckpointError, match=rf"{reference}: sha256 is {right} instead of {wrong}") as caught:
            weights_file(tmp_path, {"weights": reference, "sha256": wrong})
        assert (f"delete {path.resolve()}" in str(caught.value)) == (reference != "local.safetensors")


def test_without_huggingface_hub_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # its import raises ModuleNotFoundError
    assert on_disk(FILE) is None
    with pytest.raises(CheckpointError, match=r"pip install '\.\[hub\]'"):
        fetch(FILE)


def on_the_hub(hub: Hub, folder: Path) -> Path:
    """The golden model, with its weights on the hub and not in the folder."""
    golden_folder(folder)
    data = json.loads((folder / "model.json").read_text())
    for entry in (data, data["tokenizer"]):
        weights = folder / entry["weights"]
        hub.put("someone/golden", weights.name, weights.read_bytes())
        entry |= {
            "weights": f"hub:someone/golden/{weights.name}",
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
        weights.unlink()
    (folder / "model.json").write_text(json.dumps(data))
    return folder


def load(name: str | Path) -> registry.LoadedModel:
    return registry.load(name, device=torch.device("cpu"), dtype=torch.float32)


def test_a_folder_whose_weights_lie_on_the_hub_loads_like_any_other(hub: Hub, tmp_path: Path) -> None:
    here, there = load(golden_folder(tmp_path / "here")), load(on_the_hub(hub, tmp_path / "there"))
    for ours, theirs in ((here.network, there.network), (here.tokenizer, there.tokenizer)):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_a_text_encoder_in_shards_is_fetched_whole(hub: Hub, tmp_path: Path) -> None:
    here = random_t5(tmp_path)
    there = {name: f"hub:someone/t5/encoder/{file}" for name, file in here.items()}
    there["weights"] += ".index.json"
    expected = load_text_encoder(tmp_path, here, device=torch.device("cpu"), dtype=torch.float32)
    save_shards(tmp_path, load_file(tmp_path / "model.safetensors"))
    for file in tmp_path.glob("*.*"):
        hub.put("someone/t5", f"encoder/{file.name}", file.read_bytes())
    found = load_text_encoder(tmp_path / "empty", there, device=torch.device("cpu"), dtype=torch.float32)
    assert found.encode("a red cube") == expected.encode("a red cube")
    assert "encoder/model.safetensors" not in hub.downloads


def test_a_checksum_that_is_none_names_the_folder(hub: Hub, tmp_path: Path) -> None:
    folder = on_the_hub(hub, tmp_path / "there")
    data = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(data | {"sha256": "abc"}))
    with pytest.raises(CheckpointError, match=r"model\.json: ValueError: sha256: 'abc' is not 64"):
        load(folder)


def test_a_public_name_is_fetched_from_its_repository_and_fitted_strictly(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match=r"hub:hp-l33/ARPG/arpg_300m\.pt: no such repository"):
        load("arpg-l")
    hub.put("hp-l33/ARPG", "arpg_300m.pt", CONTENT)
    hub.put("FoundationVision/LlamaGen", "vq_ds16_c2i.pt", (GOLDEN / "vq_tiny.weights.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"arpg_300m\.pt"):
        load("arpg-l")
    assert hub.downloads == ["arpg_300m.pt", "vq_ds16_c2i.pt"]


def test_a_path_is_a_path_even_where_it_reads_like_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden_folder(tmp_path / "arpg-l")
    monkeypatch.chdir(tmp_path)
    assert registry.find("./arpg-l") == Path("arpg-l")
    assert registry.find("arpg-l") == known_folders()["arpg-l"]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_model_is_described_as_its_family_builds_it(name: str) -> None:
    data = description(known_folders()[name])
    with torch.device("meta"):
        architecture = FAMILIES[data["family"]](data, tuple(data["grid"]))
    assert data["name"] == name
    if architecture.text is None:
        assert (data["classes"], architecture.num_classes) == ("imagenet", 1000)
    else:
        assert ("classes" in data, architecture.text) == (False, TextSizes(rows=120, width=2048))
        assert data["text_encoder"].keys() == {"config", "weights", "tokenizer"}
    assert data["parameters"] == sum(p.numel() for p in architecture.network.parameters())
    sizes = {key: value for key, value in data["tokenizer"].items() if key != "weights"}
    assert VQConfig(**sizes | {"channel_mult": tuple(sizes["channel_mult"])}) == VQConfig()
    assert data["defaults"].keys() <= set(architecture.settings)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_the_command_line_draws_from_the_hub_and_then_without_it(hub: Hub, tmp_path: Path) -> None:
    folder = on_the_hub(hub, tmp_path / "model")
    pictures = [tmp_path / "online.png", tmp_path / "offline.png"]
    for picture, offline in zip(pictures, ("0", "1"), strict=True):
        command = ("-m", "service.cli", "generate", "1", "--seed", "5", "--model", str(folder), "-o", str(picture))
        done = run(*command, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE=offline)
        assert done.returncode == 0, done.stderr
        hub.close()
    assert len(hub.downloads) == 2
    assert pictures[0].read_bytes() == pictures[1].read_bytes()

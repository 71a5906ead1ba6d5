"""The class names of the public models: the shipped list, the command that makes it, and folders that use it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from engine.card import ClassLabel, ModelCard, class_labels
from engine.models import imagenet, registry
from engine.models.checkpoint import CheckpointError
from engine.models.model_index import CLASSES, WEIGHTS, shared_classes
from tests.support.processes import REPOSITORY
from tests.support.tiny import golden_folder, random_folder

TIMM = find_spec("timm")
SHIPPED = WEIGHTS / "imagenet" / CLASSES

LEMMAS = """\
n01440764\ttench, Tinca tinca
n02012849\tcrane
n02113186\tCardigan, Cardigan Welsh corgi
n02963159\tcardigan
n03126707\tcrane
n09999999\ta word of no class
"""
IDS = ("n01440764", "n02012849", "n02113186", "n02963159", "n03126707")


def package(folder: Path, lemmas: str = LEMMAS) -> Path:
    """A folder that holds a small timm."""
    for file, content in ((imagenet.IDS, "\n".join(IDS)), (imagenet.LEMMAS, lemmas)):
        path = folder / "timm" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def wheel(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "timm-1.whl", "w") as archive:
        for path in package(folder / "unpacked").rglob("*.txt"):
            archive.write(path, path.relative_to(folder / "unpacked"))
    return folder / "timm-1.whl"


def make(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine.models.imagenet", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("source", [package, wheel])
def test_the_command_names_each_class_once(tmp_path: Path, source: type) -> None:
    made = imagenet.text(imagenet.read(imagenet.located(source(tmp_path))))
    assert [(c["label"], c["name"], c["synonyms"], c["wordnet_id"]) for c in json.loads(made)["classes"]] == [
        (0, "tench", ["Tinca tinca"], "n01440764"),
        (1, "crane bird", ["crane"], "n02012849"),
        (2, "Cardigan Welsh corgi", ["Cardigan"], "n02113186"),
        (3, "cardigan sweater", ["cardigan"], "n02963159"),
        (4, "construction crane", ["crane"], "n03126707"),
    ]


def test_the_command_writes_the_file_or_says_what_is_wrong(tmp_path: Path) -> None:
    done = make(package(tmp_path), "--output", tmp_path / "classes.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "classes.json").read_text() == imagenet.text(imagenet.read(tmp_path / "timm"))
    wrong = make(package(tmp_path, LEMMAS.replace("n02113186\tCardigan, Cardigan Welsh corgi", "n02113186\tCardigan")))
    assert wrong.returncode == 2
    assert "n02113186 (Cardigan) shares every lemma with another class: name it" in wrong.stderr


@pytest.mark.skipif(TIMM is None or TIMM.origin is None, reason="timm is not installed: see make imagenet-names")
def test_the_shipped_list_is_what_the_command_makes_of_timm() -> None:
    assert imagenet.text(imagenet.read(imagenet.located(None))) == SHIPPED.read_text()


def test_the_shipped_list_names_the_classes_of_imagenet() -> None:
    """Known classes, as the checkpoints of other projects label them; and what makes a name mean one class."""
    classes = class_labels(shared_classes("imagenet"))
    assert [c.label for c in classes] == list(range(1000))
    ids = [c.wordnet_id or "" for c in classes]
    assert ids == sorted(set(ids)), "ImageNet's labels are in the order of the WordNet ids"
    assert len({c.name.casefold() for c in classes}) == 1000
    known = {
        0: ("tench", "n01440764"), 1: ("goldfish", "n01443537"), 207: ("golden retriever", "n02099601"),
        281: ("tabby", "n02123045"), 387: ("lesser panda", "n02509815"), 417: ("balloon", "n02782093"),
        817: ("sports car", "n04285008"), 980: ("volcano", "n09472597"), 999: ("toilet tissue", "n15075141"),
    }  # fmt: skip
    assert {label: (classes[label].name, classes[label].wordnet_id) for label in known} == known
    assert {c.wordnet_id for c in classes} > imagenet.OWN_NAMES.keys()
    assert {c.name for c in classes} > set(imagenet.OWN_NAMES.values())
    assert classes[2].synonyms == ("white shark", "man-eater", "man-eating shark", "Carcharodon carcharias")


def test_the_list_that_is_shipped_is_in_the_form_that_the_command_writes() -> None:
    assert imagenet.text(shared_classes("imagenet")) == SHIPPED.read_text()
    assert SHIPPED.stat().st_size < 100_000
    licences = (SHIPPED.parent / json.loads(SHIPPED.read_text())["licences"]).read_text()
    for notice in ("Apache", "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved."):
        assert notice in licences


def test_a_folder_may_use_the_list_and_its_card_keeps_it_on_the_way_to_the_api(tmp_path: Path) -> None:
    folder = random_folder(tmp_path / "arpg-l", name="arpg-l", num_classes=1000, n_layer=2, dim=32, n_head=1)
    data = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(data | {"classes": "imagenet"}))
    card = registry.load(folder, device=torch.device("cpu"), dtype=torch.float32).card
    assert card.classes[0] == ClassLabel(0, "tench", ("Tinca tinca",), "n01440764")
    sent = json.dumps(card.to_json())
    assert ModelCard.from_json(json.loads(sent)) == card
    assert len(sent) < 110_000


@pytest.mark.parametrize(
    ("classes", "says"),
    [("imagenet", "labels must be 0 … 9"), ("cifar", "'cifar' is no list of classes; there is imagenet")],
)
def test_a_list_that_does_not_fit_is_refused_by_name(tmp_path: Path, classes: str, says: str) -> None:
    folder = golden_folder(tmp_path / "golden")
    data = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(data | {"classes": classes}))
    with pytest.raises(CheckpointError, match=says):
        registry.load(folder, device=torch.device("cpu"), dtype=torch.float32)

"""The walk in docs/models.md describes its models completely, and names their weights as the published checkpoints do.
That it serves them, test_blocks.py shows."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from engine.codec.vq import VQConfig, VQModel
from engine.models.checkpoint import UNUSED
from engine.models.families import FAMILIES
from engine.models.model_index import known_folders
from tests.support.processes import REPOSITORY
from tests.support.tiny import golden

TEXT = (REPOSITORY / "docs" / "models.md").read_text()
EXAMPLES: list[dict[str, Any]] = [
    json.loads(found) for found in re.findall(r"model\.json <<'END'\n(.*?)^END$", TEXT, re.MULTILINE | re.DOTALL)
]
PUBLISHED = {"arpg": "arpg_tiny", "llamagen-t2i": "llamagen_t2i_tiny"}
FOR_LISTS = {"parameters", "bytes"}
"""Fields of public models that `arpg models` shows."""


def kinds(keys: Any) -> set[str]:
    """Names of weights, whatever their layer's number."""
    return {re.sub(r"\d+", "#", key) for key in keys if key not in UNUSED}


def test_the_walk_describes_a_model_of_classes_and_one_of_prompts() -> None:
    assert {example["family"] for example in EXAMPLES} == PUBLISHED.keys()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["name"])
def test_the_weights_of_the_walk_have_the_published_names(example: dict[str, Any]) -> None:
    network = FAMILIES[example["family"]](example, (8, 8)).network
    assert kinds(network.state_dict()) == kinds(golden(f"{PUBLISHED[example['family']]}.weights"))
    sizes = {name: value for name, value in example["tokenizer"].items() if name != "weights"}
    assert kinds(VQModel(VQConfig(**sizes)).state_dict()) == kinds(golden("vq_tiny.weights"))


def test_the_table_has_every_field_of_a_model_json() -> None:
    table = TEXT[TEXT.index("## model.json") :]
    rows = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    shipped = [json.loads((folder / "model.json").read_text()) for folder in known_folders().values()]
    assert {name for model in [*EXAMPLES, *shipped] for name in model} - rows - FOR_LISTS == set()

"""A text encoder is loaded from the files of the public format, and only if they fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.models.checkpoint import CheckpointError
from engine.models.text_encoders import load_text_encoder
from engine.text.encoder import TextEncoder
from tests.support.tiny import random_t5, save_shards

PROMPT = "a red cube on a green floor"


def load(folder: Path, entry: dict[str, str], dtype: torch.dtype = torch.float32) -> TextEncoder:
    return load_text_encoder(folder, entry, device=torch.device("cpu"), dtype=dtype)


@pytest.fixture
def entry(tmp_path: Path) -> dict[str, str]:
    return random_t5(tmp_path)


def test_the_encoder_of_a_whole_model_in_shards_is_the_same(tmp_path: Path, entry: dict[str, str]) -> None:
    expected = load(tmp_path, entry)
    state = load_file(tmp_path / "model.safetensors")
    decoder = {"decoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(3), "lm_head.weight": torch.zeros(2)}
    state |= decoder | {"encoder.embed_tokens.weight": state["shared.weight"].clone()}
    (tmp_path / "model.safetensors").unlink()
    save_shards(tmp_path, state)
    found = load(tmp_path, entry | {"weights": "model.safetensors.index.json"})
    assert found.encode(PROMPT) == expected.encode(PROMPT)
    assert found.fingerprint != expected.fingerprint


def test_an_index_and_its_shards_must_agree(tmp_path: Path, entry: dict[str, str]) -> None:
    places = save_shards(tmp_path, load_file(tmp_path / "model.safetensors"))
    index = tmp_path / "model.safetensors.index.json"
    sharded = entry | {"weights": index.name}
    key = "shared.weight"
    other = next(name for name in places.values() if name != places[key])
    for changed, says in [
        (places | {key: other}, f"{places[key]} is not as {index.name} says: unexpected: {key}"),
        (places | {"extra": other}, f"{other} is not as {index.name} says: missing: extra"),
        (places | {key: "absent.safetensors"}, "absent.safetensors: no such file"),
        (places | {key: "../model.safetensors"}, "index.json: not a readable index .*beside the index"),
        (places | {key: 3}, "index.json: not a readable index"),
        ({}, "index.json: not a readable index"),
    ]:
        index.write_text(json.dumps({"weight_map": changed}))
        with pytest.raises(CheckpointError, match=says):
            load(tmp_path, sharded)
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="not a readable index"):
        load(tmp_path, sharded)


def test_a_weight_that_does_not_fit_is_refused_with_its_file_and_key(tmp_path: Path, entry: dict[str, str]) -> None:
    state = load_file(tmp_path / "model.safetensors")
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    for changed, says in [
        ({k: v for k, v in state.items() if k != bias}, f"model.safetensors does not fit T5Encoder: missing: {bias}"),
        (state | {"encoder.block.1.extra": torch.zeros(1)}, "unexpected: encoder.block.1.extra"),
        (state | {"decoders.weight": torch.zeros(1)}, "unexpected: decoders.weight"),
        (state | {bias: torch.zeros(32, 4)}, rf"{bias} \(32, 4\) instead of \(32, 3\)"),
        (state | {"shared.weight": state["shared.weight"] * torch.nan}, "not finite: shared.weight"),
        (state | {"encoder.embed_tokens.weight": state["shared.weight"] + 1}, "differs from shared.weight"),
    ]:
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=says):
            load(tmp_path, entry)


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("this must never run",))


def test_pickled_objects_are_refused_and_never_run(
    tmp_path: Path, entry: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"shared.weight": Hostile()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: not a readable checkpoint"):
        load(tmp_path, entry | {"weights": "pytorch_model.bin"})
    assert "never run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", "{", r"config\.json: Expecting"),
        ("config.json", "[]", r"config\.json: must be an object"),
        ("config.json", '{"model_type": "bert"}', r"config\.json: model_type: must be 't5'"),
        ("config.json", None, r"config\.json: no such file"),
        ("tokenizer.json", "{}", r"tokenizer\.json: not a readable tokenizer"),
        ("tokenizer.json", None, r"tokenizer\.json: no such file"),
        ("model.safetensors", None, r"model\.safetensors: no such file"),
    ],
)
def test_files_that_are_damaged_or_missing_are_named(
    tmp_path: Path, entry: dict[str, str], file: str, content: str | None, says: str
) -> None:
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match=says):
        load(tmp_path, entry)


def test_a_tokenizer_with_more_words_than_the_weights_is_refused(tmp_path: Path, entry: dict[str, str]) -> None:
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 20}))
    state = load_file(tmp_path / "model.safetensors")
    save_file(state | {"shared.weight": state["shared.weight"][:20].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: it has \d+ ids, and the encoder's vocab_size is 20"):
        load(tmp_path, entry)


def test_the_entry_names_its_three_files(tmp_path: Path, entry: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"text_encoder: .* missing or unknown: \['tokenizer'\]"):
        load(tmp_path, {"config": entry["config"], "weights": entry["weights"]})
    with pytest.raises(CheckpointError, match=r"sha256 is [0-9a-f]{64} instead of 0000"):
        load(tmp_path, entry | {"sha256": "0" * 64})


def test_half_precision_is_near_and_another_is_refused(tmp_path: Path, entry: dict[str, str]) -> None:
    exact = torch.from_numpy(load(tmp_path, entry).encode(PROMPT).rows.copy())
    half = torch.from_numpy(load(tmp_path, entry, torch.bfloat16).encode(PROMPT).rows.copy())
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().max() < 0.1
    with pytest.raises(ValueError, match="dtype: T5 needs float32 or bfloat16, got float16"):
        load(tmp_path, entry, torch.float16)

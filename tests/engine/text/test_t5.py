"""The T5 encoder computes what the published implementation does."""

from __future__ import annotations

import pytest
import torch

from engine.models.checkpoint import fit, load_state
from engine.text.t5 import DECODER, T5Config, T5Encoder, buckets
from tests.support.tiny import GOLDEN, golden, golden_config

WEIGHTS = GOLDEN / "t5_tiny.weights.safetensors"
CONFIG = golden_config("t5_tiny")["config"]


def published(dtype: torch.dtype = torch.float32) -> T5Encoder:
    network = T5Encoder(T5Config.from_json(CONFIG))
    fit(network, load_state(WEIGHTS, skip=DECODER), WEIGHTS)
    return network.to(dtype)


@torch.inference_mode()
def test_features_are_those_of_the_published_implementation() -> None:
    expected = golden("t5_tiny.golden")
    valid = expected["valid"]
    rows = published()(expected["ids"], valid)
    assert (rows - expected["hidden"])[valid].abs().max() < 1e-5
    for ids, length, hidden in zip(expected["ids"], valid.sum(1), expected["hidden"], strict=True):
        [alone] = published()(ids[None, :length])  # no padding is fed at all
        assert (alone - hidden[:length]).abs().max() < 1e-5


@torch.inference_mode()
def test_half_precision_is_as_near_as_its_rounding_allows() -> None:
    expected = golden("t5_tiny.golden")
    rows = published(torch.bfloat16)(expected["ids"], expected["valid"]).float()
    error = (rows - expected["hidden"])[expected["valid"]]
    rounding = (expected["hidden_bfloat16"].float() - expected["hidden"])[expected["valid"]]
    assert error.square().mean() < 1.5 * rounding.square().mean()


def test_near_distances_have_a_bucket_each_and_far_ones_share() -> None:
    row = buckets(300, 32, 128)[150]
    behind, before = row[:150].flip(0), row[151:]  # at distances 1, 2, 3 …
    assert row[150] == 0
    assert behind[:7].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert behind[7:11].tolist() == [8, 8, 8, 8]
    assert behind[11] == 9
    assert behind[126:].tolist() == [15] * 24
    assert torch.equal(before[:149], behind[:149] + 16)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"feed_forward_proj": "relu"},
            "feed_forward_proj: must be 'gated-gelu', as in .* got 'relu'",
        ),
        ({"model_type": "umt5"}, "model_type: must be 't5'"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config: quantised weights are not supported"),
        ({"num_layers": 0}, "num_layers: must be a positive number, got 0"),
        ({"d_kv": "64"}, "d_kv: must be a positive number, got '64'"),
        ({"layer_norm_epsilon": -1e-6}, "layer_norm_epsilon: must be a positive number"),
        ({"relative_attention_num_buckets": 30}, "relative_attention_num_buckets: must be a multiple of 4"),
        ({"relative_attention_max_distance": 8}, "relative_attention_num_buckets: .* got 32"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(change: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        T5Config.from_json(CONFIG | change)


def test_a_size_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="d_ff: missing"):
        T5Config.from_json({name: value for name, value in CONFIG.items() if name != "d_ff"})


def test_the_published_size_has_the_published_number_of_weights() -> None:
    """google/flan-t5-xl: 1.22 billion in the encoder."""
    sizes = {"vocab_size": 32128, "d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32}
    with torch.device("meta"):
        network = T5Encoder(T5Config(**sizes))
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_223_527_424

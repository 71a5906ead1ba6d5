"""The tokenizer agrees with the published definition, number for number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.codec.vq import VQConfig, VQModel

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "vq_tiny.golden.safetensors")


@pytest.fixture(scope="module")
def model() -> VQModel:
    sizes = json.loads((GOLDEN / "vq_tiny.json").read_text())["config"]
    model = VQModel(
        VQConfig(
            codebook_size=sizes["n_e"],
            codebook_dim=sizes["e_dim"],
            channels=sizes["ch"],
            channel_mult=sizes["mult"],
            z_channels=sizes["z"],
            encoder_res_blocks=sizes["nres_e"],
            decoder_res_blocks=sizes["nres_d"],
        )
    )
    model.load_state_dict(load_file(GOLDEN / "vq_tiny.weights.safetensors"))
    return model.eval()


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@torch.inference_mode()
def test_latent_and_codes_are_the_published_ones(model: VQModel, golden: dict[str, torch.Tensor]) -> None:
    assert_close(model.latent(golden["image"]), golden["latent"])
    assert torch.equal(model.encode(golden["image"]), golden["codes"])


@torch.inference_mode()
def test_decoding_is_the_published_one(model: VQModel, golden: dict[str, torch.Tensor]) -> None:
    assert_close(model.decode(golden["codes"]), golden["decoded"])


@torch.inference_mode()
def test_a_wide_picture_has_the_published_codes(model: VQModel, golden: dict[str, torch.Tensor]) -> None:
    assert torch.equal(model.encode(golden["wide_image"]), golden["wide_codes"])
    assert model.decode(golden["wide_codes"]).shape == golden["wide_image"].shape


def test_published_size() -> None:
    """VQ-16 as published: 71.9 million parameters, stride 16."""
    with torch.device("meta"):
        model = VQModel(VQConfig())
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 71.9
    assert model.config.stride == 16

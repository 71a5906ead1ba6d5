"""The Inception network of FID: the published port's numbers, its key names, and files that don't fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.evaluation.adm.inception import CLASSES, FEATURES, Inception, load_inception
from engine.models.checkpoint import CheckpointError
from tests.evaluation.adm.random_inception import pictures, random_inception_state, write_random_inception
from tests.support.tiny import golden

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_inception(tmp_path_factory.mktemp("inception") / "inception.pth")


@pytest.fixture(scope="module")
def network(file: Path) -> Inception:
    return load_inception(file, CPU)


@torch.inference_mode()
def test_features_are_those_of_the_published_port(network: Inception) -> None:
    """golden/inception_fid: pytorch-fid's InceptionV3 over torchvision's blocks, with the same random weights."""
    features = network(torch.from_numpy(pictures()).permute(0, 3, 1, 2))
    expected = golden("inception_fid")["features"]
    assert features.shape == (2, FEATURES)
    assert float((features - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@torch.inference_mode()
def test_probabilities_are_of_the_logits_without_bias(network: Inception) -> None:
    features = network(torch.from_numpy(pictures()).permute(0, 3, 1, 2))
    logits = network.fc(features) - network.fc.bias
    found = network.probabilities(features)
    assert found.shape == (2, CLASSES)
    assert torch.allclose(found, logits.double().softmax(1), atol=1e-6)
    assert not torch.allclose(found, network.fc(features).double().softmax(1), atol=1e-4)


def test_the_keys_are_those_of_the_public_file() -> None:
    keys = random_inception_state().keys()
    assert len(keys) == 94 * 6 + 2  # 94 convolutions, each with a weight and five tensors of its normalisation
    assert {
        "Conv2d_1a_3x3.conv.weight", "Mixed_5b.branch3x3dbl_3.bn.running_var", "Mixed_6a.branch3x3.bn.weight",
        "Mixed_6e.branch7x7dbl_5.conv.weight", "Mixed_7a.branch7x7x3_4.bn.bias", "Mixed_7c.branch3x3_2b.conv.weight",
        "Mixed_7c.branch_pool.bn.num_batches_tracked", "fc.weight", "fc.bias",
    } <= keys  # fmt: skip


def test_a_file_without_the_counters_of_training_loads(tmp_path: Path, network: Inception) -> None:
    state = {key: value for key, value in random_inception_state().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pth")
    assert torch.equal(load_inception(tmp_path / "old.pth", CPU).fc.weight, network.fc.weight)


@pytest.mark.parametrize("key", ["Mixed_6a.branch3x3dbl_2.bn.running_mean", "fc.bias"])
def test_a_file_that_lacks_a_tensor_is_rejected_by_its_name(tmp_path: Path, key: str) -> None:
    state = random_inception_state()
    del state[key]
    torch.save(state, tmp_path / "damaged.pth")
    with pytest.raises(CheckpointError, match=key):
        load_inception(tmp_path / "damaged.pth", CPU)


def test_inception_v3_of_others_is_rejected(tmp_path: Path) -> None:
    """torchvision's weights have 1,000 classes and an auxiliary head: their features are not FID's."""
    state = random_inception_state() | {
        "fc.weight": torch.zeros(1000, FEATURES),
        "AuxLogits.fc.bias": torch.zeros(1000),
    }
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"AuxLogits.fc.bias.*of another shape: fc.weight"):
        load_inception(tmp_path / "other.pth", CPU)

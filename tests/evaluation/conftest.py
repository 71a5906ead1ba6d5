"""Every test of evaluation computes with one thread; a model of noise and a world of noise to evaluate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.evaluation.commands import noise


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Torch computes with one thread, so that sums come out the same on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise(tmp_path_factory.mktemp("runs"))

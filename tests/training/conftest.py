"""Every test of training computes with one thread."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Torch computes with one thread, so that sums come out the same on every machine."""
    torch.set_num_threads(1)

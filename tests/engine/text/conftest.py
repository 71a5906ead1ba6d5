"""A small text encoder with random weights."""

from __future__ import annotations

import pytest
import torch

from engine.models.text_encoders import load_text_encoder
from engine.text.encoder import TextEncoder
from tests.support.tiny import random_t5


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder = tmp_path_factory.mktemp("t5")
    return load_text_encoder(folder, random_t5(folder), device=torch.device("cpu"), dtype=torch.float32)

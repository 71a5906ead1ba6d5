"""Folders of random models: one that draws in any order, and one of a fixed order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny import random_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"), grid=(8, 8))


@pytest.fixture(scope="module")
def raster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"), family="llamagen", name="raster", grid=(4, 4))

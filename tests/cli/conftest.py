"""Folders of random models: one that draws in any order, and one of a fixed order."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.core.engine import Engine, EngineConfig
from service.cli.main import main
from tests.cli.verifying import Verify
from tests.support.tiny import random_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"), grid=(8, 8))


@pytest.fixture(scope="module")
def raster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"), family="llamagen", name="raster", grid=(4, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=4096))


@pytest.fixture
def verify(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Verify:
    """Status, what it said, and what it said of errors."""

    def run(file: bytes) -> tuple[int, str, str]:
        path = tmp_path / "picture.png"
        path.write_bytes(file)
        capsys.readouterr()
        status = main(["verify", str(path), "--model", str(folder), "--device", "cpu"])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run

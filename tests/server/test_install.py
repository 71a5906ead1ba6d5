"""What an installation holds: an API replica without torch, and every data file in the wheel."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from itertools import chain
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from service.jobs import WorkerCards, connect
from service.jobs.spec import SPEC_VERSION
from service.settings import Settings
from tests.support.api import CAPACITY, CARD, half_mask, noise, png
from tests.support.processes import REPOSITORY, die_with_parent
from tests.support.serve import read_url
from tests.support.waiting import PATIENCE

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def needed_by(texts: list[str], extras: set[str]) -> Iterator[Distribution]:
    """The distributions that requirements ask for, each with its own."""
    for text in texts:
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            try:
                found = distribution(wanted.name)
            except PackageNotFoundError:  # pip would install it; here the test would fail at its import
                continue
            yield found
            yield from needed_by(found.requires or [], wanted.extras)


def install(extra: str, folder: Path) -> Path:
    """A virtual environment with what `pip install .[extra]` installs, as links to what this one has. Its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    requirements = PROJECT["dependencies"] + PROJECT["optional-dependencies"][extra]
    for found in {canonicalize_name(d.name): d for d in needed_by(requirements, {extra})}.values():
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(found.locate_file(top))))
    for package in ("engine", "service"):
        (packages / package).symlink_to(REPOSITORY / package)
    return folder / "bin" / "python"


async def show_card(settings: Settings) -> None:
    redis = connect(settings.redis_address or "")
    cards = WorkerCards(redis, settings.queue_config, ttl_seconds=300)
    models = [{"card": CARD.to_json(), "capacity": CAPACITY}]
    await cards.put("far-away", {"worker": "far-away", "models": models, "spec": SPEC_VERSION})
    await redis.aclose()


def test_every_floor_is_what_the_tests_ran_with() -> None:
    """Nobody tests an older version, and some have faults that a client can use."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(r.name): r.specifier for r in map(Requirement, lines[1:])}
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for wanted in map(Requirement, chain.from_iterable(groups)):
        name = canonicalize_name(wanted.name)
        if name in ("arpg-serve", "torch", "triton"):  # our own extras; what a GPU's driver and image decide
            continue
        [tested] = [one.version for one in pinned[name]]
        [floor] = [one.version for one in wanted.specifier if one.operator in (">=", "==")]
        minor = ".".join(tested.split(".")[:2])
        assert floor == (tested if minor == "0.0" or f"=={tested}" in str(wanted) else minor), f"not {tested}: {wanted}"


def test_the_pins_can_be_installed_on_the_oldest_python() -> None:
    """Debian 12 has 3.11.2. A pin for newer ones has a marker that says so."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    environment = {"python_full_version": oldest, "python_version": oldest.rpartition(".")[0]}
    for pinned in map(Requirement, lines[1:]):
        if pinned.marker is not None and not pinned.marker.evaluate(environment):
            continue
        try:
            needs = distribution(pinned.name).metadata["Requires-Python"]
        except PackageNotFoundError:
            continue
        assert not needs or SpecifierSet(needs).contains(oldest), f"{pinned} needs Python {needs}"


def test_an_api_replica_runs_without_torch(redis_socket: Path, tmp_path: Path) -> None:
    python = install("api", tmp_path / "venv")
    for missing in ("torch", "safetensors"):
        assert subprocess.run([python, "-c", f"import {missing}"], stderr=subprocess.DEVNULL).returncode == 1, missing
    url = f"unix://{redis_socket}"
    asyncio.run(show_card(Settings(redis_url=url, namespace="replica", _env_file=None)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ARPG_"))}
    environment |= {"ARPG_REDIS_URL": url, "ARPG_NAMESPACE": "replica", "ARPG_ALLOW_UNSAFE_REDIS": "1", "PORT": "0"}
    process = subprocess.Popen(
        [python, "-m", "service.cli", "api"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    try:
        assert process.stderr is not None
        with httpx.Client(base_url=read_url(process.stderr), timeout=PATIENCE) as client:
            assert client.get("/healthz").json() == {"status": "ok"}
            assert client.get("/readyz").json() == {"status": "ready", "models": ["hand"]}
            assert [model["id"] for model in client.get("/v1/models").json()["models"]] == ["hand"]
            assert client.get("/").text.startswith("<!doctype html>")
            files = {"image": png(noise(32, 32)), "mask": png(half_mask(32, 32))}
            job = client.post("/v1/inpaint", files=files)
            assert job.status_code == 202, job.text
            assert client.delete(job.json()["urls"]["cancel"]).json()["status"] == "canceled"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait(10)
        process.stderr.close() if process.stderr else None
    for command in (["serve"], ["worker"], ["models"], ["generate", "cube"]):
        refused = subprocess.run(
            [python, "-m", "service.cli", *command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert refused.returncode == 1
        other = ", or --server to let a server draw" if command[0] == "generate" else ""
        assert refused.stderr == f"arpg {command[0]} needs torch: pip install '.[service]' in the checkout{other}\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel that is built from a copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for package in ("engine", "service"):
        shutil.copytree(REPOSITORY / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    script = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    built = subprocess.run([sys.executable, "-c", script], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    [file] = source.glob("dist/*.whl")
    return set(zipfile.ZipFile(file).namelist())


@pytest.mark.parametrize(
    "pattern",
    [
        "service/jobs/lua/*.lua",
        "service/auth/*.lua",
        "service/playground/*.*",
        "service/playground/*/*.js",
        "engine/weights/*/model.json",
        "engine/weights/demo/*.safetensors",
        "engine/weights/demo-*/*.safetensors",
    ],
)
def test_the_wheel_holds_every_data_file(wheel: set[str], pattern: str) -> None:
    files = {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob(pattern)}
    assert files
    assert files - wheel == set()


def test_the_wheel_holds_every_module_and_no_tests(wheel: set[str]) -> None:
    sources = {
        p.relative_to(REPOSITORY).as_posix() for d in ("engine", "service") for p in (REPOSITORY / d).rglob("*.py")
    }
    assert sources - wheel == set()
    assert not any(name.startswith("tests/") for name in wheel)

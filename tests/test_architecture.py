"""The order of the packages, the size of files and folders, and the API without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from tests.conftest import LONGEST_FIRST
from tests.support.processes import REPOSITORY

# A package of service/ imports only from itself and from what stands to its right.
ORDER = ("cli", "client", "bench", "server", "api", "services", "tasks", "auth", "settings", "jobs")
BELOW_ALL = ("errors", "logs", "metrics")
"""Every package may import these; they import nothing of the project but each other."""
WORKER_RUNS_IN = ("cli", "server")
"""The only packages that import service.worker, which imports from tasks on."""

# A package or module of engine/ imports only from itself and from what stands to its right.
ENGINE_ORDER = (
    "bench", "evaluation", "training", "core", "editing", "models", "ops", "attention", "text", "codec", "plans",
    "noise", "card", "checks", "request",
)  # fmt: skip

MAX_LINES = 300

MAX_ENTRIES = 14
NOT_COUNTED = ("engine/weights", "service/playground", "tests/golden")
"""Data and a web page: their files follow other rules."""

MORE_ENTRIES = {
    "service/worker": 15,  # a file for each part of a job's way through a worker
    "tests": 21,  # a folder for each package that is tested
    "service": 16,  # its packages, and the modules that all of them share
    "service/api": 15,  # a file for each stage of a request and of its answer
    "service/jobs": 15,  # a file for each part of the contract between API and workers
    "service/server": 15,  # a file for each part of the API's process, and for the processes that it starts
    "tests/api": 20,  # a file for each route or rule of the API
    "tests/chaos": 17,  # the cluster, its faults, and the checker are one program
    "engine": 17,  # its packages, the modules that all of them share, and the measurements
    "tests/engine": 25,  # a file for each subject of the engine, whose packages hold 70 modules
    "tests/worker": 16,  # a file for each fault and each duty of the worker
    "engine/evaluation": 16,  # a file for each question asked of a model, and what their answers share
    "engine/training": 16,  # a file for each stage of the training
}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def tracked() -> list[PurePosixPath]:
    """The files that git knows; without git, such as in an unpacked archive, the test is skipped."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    return [PurePosixPath(name) for name in listed.stdout.split("\0") if name]


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, also inside functions and for type checking."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package(dotted: str) -> tuple[str, str]:
    """(`service` or `engine` …, the package or module in it)."""
    root, _, rest = dotted.partition(".")
    return root, rest.partition(".")[0]


def may_import(importer: str, target: str) -> bool:
    """Both are packages of service/."""
    if importer == target or target in BELOW_ALL:
        return True
    if importer in BELOW_ALL:
        return False
    if target == "worker":
        return importer in WORKER_RUNS_IN
    first = ORDER.index("tasks") if importer == "worker" else ORDER.index(importer) + 1
    return target in ORDER[first:]


def test_a_package_imports_only_what_stands_below_it() -> None:
    upwards = []
    for path in python_files("service"):
        name = path.relative_to(REPOSITORY / "service").parts[0].removesuffix(".py")
        for dotted in imported(path):
            root, target = package(dotted)
            if root == "service" and name != "__init__" and not may_import(name, target):
                upwards.append(f"{path.relative_to(REPOSITORY)}: {dotted}")
            if root == "engine" and name in BELOW_ALL:
                upwards.append(f"{path.relative_to(REPOSITORY)}: {dotted}")
    assert upwards == []


def test_the_engine_knows_nothing_of_the_service_and_neither_knows_the_tests() -> None:
    known = [
        f"{path.relative_to(REPOSITORY)}: {dotted}"
        for folder, forbidden in (("engine", ("service", "tests")), ("service", ("tests",)))
        for path in python_files(folder)
        for dotted in imported(path)
        if package(dotted)[0] in forbidden
    ]
    assert known == []


def test_the_client_imports_nothing_else_of_the_project() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}: {dotted}"
        for path in python_files("service/client")
        for dotted in imported(path)
        if package(dotted)[0] == "engine" or (package(dotted)[0] == "service" and package(dotted)[1] != "client")
    ]
    assert found == []


def test_a_package_of_the_engine_imports_only_what_stands_below_it() -> None:
    upwards = []
    for path in python_files("engine"):
        name = path.relative_to(REPOSITORY / "engine").parts[0].removesuffix(".py")
        if name == "__init__":
            continue
        allowed = ENGINE_ORDER[ENGINE_ORDER.index(name) :]
        for dotted in imported(path):
            root, target = package(dotted)
            if root == "engine" and target not in allowed:
                upwards.append(f"{path.relative_to(REPOSITORY)}: {dotted}")
    assert upwards == []


@pytest.mark.parametrize("folder", ["engine", "service"])
def test_no_modules_import_each_other_in_a_ring(folder: str) -> None:
    paths = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path for path in python_files(folder)}
    left = {
        module: {name for dotted in imported(path) for name in (dotted, dotted.rpartition(".")[0]) if name in paths}
        for module, path in paths.items()
    }
    while ends := [module for module, names in left.items() if not names & left.keys()]:
        for module in ends:
            del left[module]
    assert left == {}


def test_no_file_is_longer_than_a_reader_can_follow() -> None:
    files = {str(path.relative_to(REPOSITORY)): path for path in python_files("service", "engine", "tests")}
    lines = {name: len(path.read_text().splitlines()) for name, path in files.items()}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_no_folder_shows_more_than_a_reader_takes_in_at_once() -> None:
    shown: dict[str, set[str]] = defaultdict(set)
    for path in tracked():
        for entry, folder in zip((path, *path.parents), path.parents, strict=False):
            if not entry.name.startswith(".") and entry.name not in ("__init__.py", "conftest.py"):
                shown[str(folder)].add(entry.name)
    crowded = {
        folder: len(entries)
        for folder, entries in shown.items()
        if len(entries) > MORE_ENTRIES.get(folder, MAX_ENTRIES) and not folder.startswith(NOT_COUNTED)
    }
    assert crowded == {}


def test_the_files_that_start_first_exist() -> None:
    assert [name for name in LONGEST_FIRST if not (REPOSITORY / "tests" / name).is_file()] == []


@pytest.mark.parametrize("name", ["service.server.app", "service.server.run", "engine.models.model_index"])
def test_the_api_process_imports_no_torch(name: str) -> None:
    tasks = [f"service.tasks.{path.stem}" for path in (REPOSITORY / "service/tasks").glob("[!_]*.py")]
    script = f"import sys, {', '.join([name, *tasks])}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY).returncode == 0

"""Every code block of the documents runs as it stands, in order; those that can't are listed here, and their commands
exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest
from PIL import Image

from service.settings import Settings
from tests.docs.blocks import Block, blocks_in, blocks_of, commands, documents, pictures_named, sandbox
from tests.docs.running import environment, run, serving
from tests.support.processes import REPOSITORY

UNTESTED = {
    ("CONTRIBUTING.md", "six minutes"),
    ("docs/models.md", "downloads gigabytes of public weights"),
    ("docs/models.md", "trains for hours"),
    ("docs/models.md", "needs ARPG-L's weights, ADM's reference batch and FID's network"),
    ("docs/operations.md", "needs Docker"),
    ("docs/operations.md", "ten minutes and more each"),
    ("service/README.md", "a minute of storm, on an idle machine"),
    ("service/README.md", "minutes"),
}
"""Blocks that no test runs, and why."""

BLOCKS = {document: blocks_of(document) for document in documents()}
RUN = {
    document: kept
    for document, blocks in BLOCKS.items()
    if (kept := [block for block in blocks if block.kind in ("sh", "python") and not block.reason])
}
OTHER_VARIABLES = {"ARPG_API_KEY", "ARPG_WRITE_WIRE"}  # of the client, of a test


@pytest.fixture(scope="module")
def readme_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the server that the README starts."""
    [block] = [block for block in RUN["README.md"] if block.server]
    folder = sandbox(tmp_path_factory.mktemp("serve"), sys.executable)
    with serving(block, folder) as port:
        yield port


@pytest.mark.parametrize("document", RUN)
def test_every_block_runs_as_pasted(document: str, readme_server: int, tmp_path: Path) -> None:
    """With the README's server, unless the document starts one of its own."""
    folder, blocks = sandbox(tmp_path, sys.executable), RUN[document]
    servers = [] if document == "README.md" else [block for block in blocks if block.server]
    before = list(takewhile(lambda block: block not in servers, blocks))
    after = [block for block in blocks[len(before) :] if not block.server]
    run([block for block in before if not block.server], folder, readme_server)
    if servers:
        [server] = servers
        with serving(server, folder) as port:
            run(after, folder, port)
    for pattern in pictures_named(blocks):
        written = list(folder.glob(pattern))
        assert written, f"{document} says that it writes {pattern}"
        for path in written:
            with Image.open(path) as picture:
                picture.verify()


def test_the_blocks_that_no_test_runs_are_listed_here() -> None:
    marked = [(block.document, block.reason) for blocks in BLOCKS.values() for block in blocks if block.reason]
    assert sorted(marked) == sorted(UNTESTED)


@pytest.mark.parametrize(
    "block", [b for blocks in BLOCKS.values() for b in blocks if b.reason], ids=lambda b: f"{b.document}:{b.line}"
)
def test_the_commands_of_the_other_blocks_exist(block: Block, tmp_path: Path) -> None:
    folder = sandbox(tmp_path, sys.executable)
    assert [line for line in commands(block) if (problem := wrong_with(line, folder)) and print(problem) is None] == []


def test_the_commands_that_measured_a_speed_exist(tmp_path: Path) -> None:
    given = re.findall(r"`(arpg bench [^`]*|make load)`", (REPOSITORY / "README.md").read_text())
    assert len(given) >= 2
    assert [line for line in given if wrong_with(line, tmp_path if "make" not in line else REPOSITORY)] == []


def wrong_with(line: str, folder: Path) -> str | None:
    """What a command names that does not exist; None: nothing."""
    words = shlex.split(line)
    if words[0] == "make":
        plan = subprocess.run(["make", "-n", *words[1:]], cwd=folder, capture_output=True, text=True)
        return plan.stderr if plan.returncode else None
    if words[0].endswith("arpg"):
        known = options_of(" ".join(takewhile(lambda word: re.fullmatch("[a-z]+", word), words[1:])))
        unknown = [word for word in words if word.startswith("--") and word not in known]
        return f"{line}: {unknown}" if unknown else None
    if words[:2] == ["docker", "compose"]:
        described = (REPOSITORY / "docker-compose.yml").read_text()
        profiles = re.findall(r"--profile (\S+)", line)
        services = re.findall(r"--scale (\w+)=|run --rm (\w+)", line)
        missing = [name for name in profiles if f"profiles: [{name}]" not in described]
        missing += [name for pair in services for name in pair if name and f"\n  {name}:\n" not in described]
        return f"{line}: {missing}" if missing else None
    return f"{line}: no check knows this command"


@cache
def options_of(command: str) -> frozenset[str]:
    asked = [sys.executable, "-m", "service.cli", *command.split(), "--help"]
    help = subprocess.run(asked, cwd=REPOSITORY, env=environment(REPOSITORY, 0), capture_output=True, text=True)
    assert help.returncode == 0, f"arpg {command}: {help.stderr}"
    return frozenset(re.findall(r"--[a-z][a-z-]*", help.stdout))


@pytest.mark.parametrize("document", documents())
def test_every_make_target_and_setting_that_a_document_names_exists(document: str) -> None:
    text = (REPOSITORY / document).read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z][a-z-]*)", text)) - targets == set()
    settings = {f"ARPG_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    assert set(re.findall(r"\bARPG_[A-Z_]+", text)) - settings == set()


def test_a_block_that_does_not_say_what_it_is_is_found() -> None:
    with pytest.raises(AssertionError, match=r"x\.md:2"):
        list(blocks_in("\n```\nmake serve\n```\n", "x.md"))


def test_a_command_that_fails_is_found(tmp_path: Path) -> None:
    [block] = blocks_in("```sh\ncurl -f http://127.0.0.1:8000/healthz\ntrue\n```\n", "x.md")
    with pytest.raises(AssertionError, match=r"x\.md:1"):
        run([block], sandbox(tmp_path, sys.executable), 9)  # nobody listens there


def test_commands_that_do_not_exist_are_found(tmp_path: Path) -> None:
    folder = sandbox(tmp_path, sys.executable)
    wrong = ["make sreve", "arpg models --jsno", "docker compose --profile none up", "rm -r runs"]
    assert [line for line in [*wrong, "make -k serve", "arpg models --json"] if wrong_with(line, folder)] == wrong

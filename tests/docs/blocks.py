"""The code blocks of the documents.

The word after the three backticks says what a block is:

sh                    commands, which the test runs with bash, all of a document in order
sh server             a command that runs until Ctrl-C, while the blocks after it run
sh no-test: REASON    commands that a test can't run; it checks their names and options
python                a program, which the test runs
text, json            something else to read
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import REPOSITORY

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NO_TEST = "no-test:"
KINDS = ("sh", "python", "text", "json")


@dataclass(frozen=True, slots=True)
class Block:
    """document: relative to the repository. line: of the opening fence, from 1. reason: why no test runs it."""

    document: str
    line: int
    kind: str
    server: bool
    reason: str
    text: str


def documents() -> list[str]:
    """All Markdown files of the checkout; in an unpacked archive, those that stand where git has them."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    names = set(subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True).stdout.split())
    if not names:
        places = ("*.md", "docs/**/*.md", "engine/**/*.md", "service/**/*.md", "deploy/**/*.md")
        names = {str(path.relative_to(REPOSITORY)) for place in places for path in REPOSITORY.glob(place)}
    return sorted(name for name in names if (REPOSITORY / name).is_file())


def blocks_of(document: str) -> list[Block]:
    return list(blocks_in((REPOSITORY / document).read_text(), document))


def blocks_in(text: str, document: str) -> Iterator[Block]:
    """Raises AssertionError where a block does not say what it is."""
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        kind, _, rest = found[1].strip().partition(" ")
        assert kind in KINDS, f"{document}:{line}: the block must be one of {', '.join(KINDS)}, not {kind!r}"
        assert not rest or rest == "server" or rest.startswith(NO_TEST), f"{document}:{line}: {rest!r}"
        reason = rest.removeprefix(NO_TEST).strip() if rest.startswith(NO_TEST) else ""
        yield Block(document, line, kind, rest == "server", reason, found[2])


def pictures_named(blocks: list[Block]) -> list[str]:
    """Patterns of the picture files that commands and programs say they write."""
    text = "".join(block.text for block in blocks)
    named = re.findall(r"""(?:-o '?|save\((?:\w+, )?["'])([\w#-]+\.(?:png|webp))""", text)
    return sorted({name.replace("#1", "*") for name in named})


def commands(block: Block) -> list[str]:
    """The block's commands, each on one line and without comments."""
    joined = block.text.replace("\\\n", " ")
    lines = (re.sub(r"\s+#.*", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def sandbox(folder: Path, python: str) -> Path:
    """A folder that looks like a checkout after `make serve`: what its commands write stays in it."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "docker-compose.yml", "engine", "service", "tests"):
        (folder / name).symlink_to(REPOSITORY / name)
    bin = folder / ".venv" / "bin"
    bin.mkdir(parents=True)
    programs = {"python": f'exec {python} "$@"', "arpg": f'exec {python} -m service.cli "$@"', "pip": "exit 1"}
    for name, command in programs.items():
        (bin / name).write_text(f"#!/bin/sh\n{command}\n")
        (bin / name).chmod(0o755)
    for stamp in (".serve", ".test"):  # what make takes for a finished installation
        (folder / ".venv" / stamp).touch()
    return folder

"""Runs the blocks of a document as somebody who pastes them: in order, in one shell, beside a running server."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.docs.blocks import Block
from tests.support.processes import REPOSITORY, die_with_parent, free_port
from tests.support.waiting import PATIENCE

ADDRESS = "127.0.0.1:8000"
"""Where the documents expect the server."""

SHOWN = 40
"""Lines of output that a failure shows."""


def environment(folder: Path, port: int) -> dict[str, str]:
    """None of the tester's settings. Programs import the repository itself, so that compiled functions are cached."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ARPG_", "PYTHON", "MAKE"))}
    own = {"PORT": str(port), "HOME": str(folder), "PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1"}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"} | own


@contextmanager
def serving(block: Block, folder: Path) -> Iterator[int]:
    """The server that a block starts, on a free port, until it is interrupted as by Ctrl-C."""
    port = free_port()
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-ec", block.text], cwd=folder, env=environment(folder, port), stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while not _ready(port):
            where = f"{block.document}:{block.line}"
            assert process.poll() is None, f"{where}: the server has ended\n{tail(log)}"
            assert time.monotonic() < deadline, f"{where}: the server is not ready\n{tail(log)}"
            time.sleep(0.1)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(PATIENCE)


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE).status_code == 200
    except httpx.TransportError:
        return False


def run(blocks: Sequence[Block], folder: Path, port: int) -> None:
    """One shell for all of them; it stops at the first command that fails. Raises AssertionError."""
    lines = ["set -e"]
    for block in blocks:
        text = block.text.replace(ADDRESS, f"127.0.0.1:{port}")
        lines.append(f"echo '=== {block.document}:{block.line}'")
        if block.kind == "python":
            program = folder / f"block-{block.line}.py"
            program.write_text(text)
            text = f".venv/bin/python {program.name}"
        lines.append(text)
    output = folder / "output.txt"
    with output.open("w") as written:
        done = subprocess.run(
            ["bash", "-c", "\n".join(lines)], cwd=folder, env=environment(folder, port), stdout=written,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert done.returncode == 0, f"a block failed, the one of the last ===\n{tail(output)}"


def tail(file: Path) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-SHOWN:])

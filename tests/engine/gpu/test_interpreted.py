"""The kernels compute what torch does. They run in Triton's interpreter, in a process of their own: it replaces every
kernel of the process in which TRITON_INTERPRET is set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY

pytest.importorskip("triton", reason="Triton is not installed")


def test_the_kernels_agree_with_torch_in_the_interpreter() -> None:
    folder = Path(__file__).with_name("interpreted")
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", str(folder)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

"""Runs `arpg doctor` and reads what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from service.cli.main import main
from tests.support.processes import REPOSITORY

Found = dict[str, dict[str, str]]


def examined(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, Found]:
    """The exit status, and what was found by subject."""
    status = main(["doctor", "--json", *options])
    told = json.loads(capsys.readouterr().out)
    assert told["healthy"] == (status == 0)
    return status, {finding["subject"]: finding for finding in told["findings"]}


def apart(code: str = "", **environment: str) -> tuple[int, Found]:
    """The same in a process of its own, which runs this code first."""
    script = f"import sys\n{code}\nfrom service.cli.main import main\nsys.exit(main(['doctor', '--json']))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)["findings"]
    return done.returncode, {finding["subject"]: finding for finding in found}


def fault(found: Found, subject: str, says: str, cure: str, state: str = "fault") -> None:
    finding = found[subject]
    assert finding["state"] == state, finding
    assert says in finding["says"]
    assert cure in finding["cure"]


def faults(found: Found) -> set[str]:
    return {subject for subject, finding in found.items() if finding["state"] == "fault"}

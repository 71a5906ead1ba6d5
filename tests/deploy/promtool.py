"""Prometheus' own checks. Debian's package `prometheus` brings them; where they are missing, tests skip and say so."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def promtool(*arguments: str, given: str = "") -> str:
    """Runs a check and returns what it said. Fails the test if the check fails; skips it where there is no promtool."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no promtool: install Debian's package prometheus")
    done = subprocess.run([program, *arguments], input=given, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said

"""A short run of the chaos suite with every kind of fault keeps every promise. Schedules repeat by seed, and the
mutants' patterns still match the Lua verbs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from tests.chaos.faults import EVERYTHING, schedule
from tests.chaos.jobs import Workload, jobs_of
from tests.chaos.mutants import check_edits
from tests.support.processes import REPOSITORY, die_with_parent

SMOKE_SECONDS = 400  # on a busy machine; about 30 on an idle one


def test_a_run_can_be_had_again() -> None:
    load = Workload(jobs=20, seconds=5, models=("m",), poisons=("exits",))
    assert jobs_of(7, load) == jobs_of(7, load)
    assert jobs_of(7, load) != jobs_of(8, load)
    faults = schedule(7, 5, EVERYTHING, lease=1)
    assert faults == schedule(7, 5, EVERYTHING, lease=1)
    assert {fault.kind for fault in faults} == set(EVERYTHING)


def test_every_mutation_finds_what_it_breaks() -> None:
    check_edits(
        [file.read_text() for file in files("service.jobs").joinpath("lua").iterdir() if file.name.endswith(".lua")]
    )


def test_a_short_storm_breaks_no_promise(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.chaos", "--only", "smoke", "--seeds", "1", "--json", str(report)]
    finished = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=SMOKE_SECONDS,
        preexec_fn=die_with_parent,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    [told] = json.loads(report.read_text())
    assert set(told["happened"]) == set(EVERYTHING)
    assert told["violations"] == []
    assert told["figures"]["jobs"] > 50

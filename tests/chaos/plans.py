"""The plans of the suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.chaos.campaign import Plan
from tests.chaos.engine import EXITS, RAISES, RUNS_OUT
from tests.chaos.faults import API_KILL, DRAIN, EVERYTHING, FREEZE, KILL, LOST_REPLIES, SERVER_KILL
from tests.chaos.jobs import Workload
from tests.chaos.mutants import MUTANTS

MODELS = ("first", "second")
REAL_CLASSES = tuple(f"class {label}" for label in range(4))


def storms(seeds: Sequence[int], *, jobs: int = 300) -> list[Plan]:
    """All kinds of faults together."""
    poisons = (EXITS, EXITS, EXITS, RAISES, RAISES, RUNS_OUT)
    load = Workload(jobs=jobs, seconds=jobs / 10, models=MODELS, poisons=poisons)
    return [Plan(name="storm", seed=seed, load=load, rates=EVERYTHING) for seed in seeds]


def smoke(seed: int) -> Plan:
    """Each kind of fault at least once, within seconds."""
    load = Workload(jobs=60, seconds=7, models=MODELS, poisons=(EXITS, RAISES))
    return Plan(name="smoke", seed=seed, load=load, rates=EVERYTHING)


def real(seed: int, folder: Path) -> Plan:
    """The real engine in batch_invariant mode, on a small model with random weights."""
    from tests.support.tiny import random_folder

    load = Workload(jobs=40, seconds=12, models=("random",), classes=REAL_CLASSES, uploads=0.0)
    rates = {KILL: 0.8, FREEZE: 0.25, DRAIN: 0.05, LOST_REPLIES: 0.5}
    return Plan(name="real engine", seed=seed, load=load, rates=rates, folder=random_folder(folder))


def mutants(seed: int, names: Sequence[str]) -> list[Plan]:
    """names: mutants; `mutants` selects all."""
    faults = {
        "no-fence": {FREEZE: 2.0},
        "no-dedup": {LOST_REPLIES: 2.0, API_KILL: 0.2},
        "no-reaping": {KILL: 1.0},
        "aof-off": {SERVER_KILL: 0.3},
    }
    chosen = [name for name in MUTANTS if name in names or "mutants" in names]
    load = Workload(jobs=80, seconds=8, models=MODELS, steps=(24, 48, 64))
    return [Plan(name=name, seed=seed, load=load, rates=faults[name], patience=20, mutant=name) for name in chosen]

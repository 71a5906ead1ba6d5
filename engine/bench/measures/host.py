"""What the host does for a step beside the device: it schedules, packs, stages the copy, and commits."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from engine.bench.spread import Spread
from engine.core.dispatched import DispatchedStep
from engine.core.packing import PackedStep, pack
from engine.core.pages import PageAllocator
from engine.core.runner import DrawnTokens
from engine.core.scheduler import Scheduler
from engine.core.sequence import SequenceState
from engine.core.staging import HostStep, StepLayout, StepSizes
from engine.models import registry
from engine.request import Request

PAGE_SIZE = 16
ROWS = 2048
PHASES = ("schedule", "pack", "stage", "commit")
HEADER = "| phase | ms a step, median (spread over the steps) |\n|---|---|"

T = TypeVar("T")


def host_time(model: str, requests: int) -> str:
    """Milliseconds of each phase at so many running requests. Nothing is computed: every token drawn is 0."""
    loaded = registry.load(model, device=torch.device("cpu"), dtype=torch.float32)
    scheduler = Scheduler(PageAllocator(ROWS * requests), page_size=PAGE_SIZE, max_rows=ROWS)
    for seed in range(requests):
        request = Request(class_label=0, seed=seed)
        scheduler.add(SequenceState.begin(seed, request, loaded.plan(request), loaded.card.grid))
    cells = loaded.card.grid[0] * loaded.card.grid[1]
    layout = StepLayout(StepSizes(ROWS, ROWS, ROWS, 2 * requests, cells // PAGE_SIZE + 1))
    host = HostStep(layout, torch.empty(layout.size, dtype=torch.int32), scratch_slot=0)
    spent: dict[str, list[float]] = defaultdict(list)

    def timed(phase: str, work: Callable[..., T], *arguments: Any) -> T:
        start = time.perf_counter()
        result = work(*arguments)
        spent[phase].append(1000 * (time.perf_counter() - start))
        return result

    while not scheduler.idle:
        sequences = timed("schedule", scheduler.schedule)
        step = timed("pack", pack, sequences, PAGE_SIZE, [0] * len(sequences))
        timed("stage", _stage, host, step)
        timed("commit", _commit, scheduler, sequences, step)
    totals = [sum(step) for step in zip(*(spent[phase] for phase in PHASES), strict=True)]
    rows = [f"| {phase} | {Spread.of(spent[phase]).text(3)} |" for phase in PHASES]
    return "\n".join([HEADER, *rows, f"| all | {Spread.of(totals).text(3)} |"])


def _stage(host: HostStep, step: PackedStep) -> None:
    rows = [part.columns.shape[1] for part in (step.cached, step.queries)]
    host.fill(step, (), cached=rows[0], queries=rows[1], draws=len(step.guidance))


def _commit(scheduler: Scheduler, sequences: list[SequenceState], step: PackedStep) -> None:
    steps = [sequence.dispatch() for sequence in sequences]
    for sequence in sequences:
        if sequence.finished:
            scheduler.retire(sequence)
    DispatchedStep(sequences, steps, DrawnTokens(step.counts, lambda: [0] * len(step.guidance))).commit()

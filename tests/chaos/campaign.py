"""One run: sends jobs through a cluster while faults happen, and records the history."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from service.auth import key_store, keys
from tests.api.jobs.receiver import receiving
from tests.chaos import cluster, truth
from tests.chaos.checker import check
from tests.chaos.children import Setup
from tests.chaos.clients import Clients, Figures
from tests.chaos.cluster import Cluster
from tests.chaos.faults import Fault, inflict, schedule
from tests.chaos.history import History, Violation
from tests.chaos.jobs import Job, Workload, jobs_of
from tests.chaos.mutants import MUTANTS
from tests.chaos.server import Server

SCRATCH = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Folder of Valkey's files, in memory: a killed process loses no completed write on any file system, and a disk that
another program slows down would look like a fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """patience: seconds after the last fault within which every job must end."""

    name: str
    seed: int
    load: Workload
    rates: Mapping[str, float]
    lease: float = 0.8
    max_lost: int = 4  # random kills rarely hit one job this often in a row
    max_queued: int = 80
    quota: int = 40  # unfinished jobs of one client
    patience: float = 120.0
    folder: Path | None = None  # the real engine's model folder
    mutant: str | None = None


@dataclass(slots=True)
class Report:
    plan: str
    seed: int
    mutant: str | None
    seconds: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    figures: dict[str, Any] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    logs: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(replace(self, happened=Counter())) | {"happened": dict(self.happened)}


async def campaign(plan: Plan, logs: Path) -> Report:
    """Runs the jobs without faults, then with faults, and compares the two."""
    began = time.monotonic()
    report = Report(plan.name, plan.seed, plan.mutant, logs=str(logs))
    jobs = jobs_of(plan.seed, plan.load)
    report.faults = schedule(plan.seed, plan.load.seconds, plan.rates, lease=plan.lease)
    appendonly = plan.mutant is None or MUTANTS[plan.mutant].appendonly
    expected = (await run(replace(plan, mutant=None), calm(jobs), (), logs / "calm"))[0].outcomes
    history, figures, report.happened, more = await run(plan, jobs, report.faults, logs / "storm", appendonly)
    report.violations = check(history, expected)
    report.figures = summary(history, figures) | more
    report.seconds = round(time.monotonic() - began, 1)
    return report


def calm(jobs: Sequence[Job]) -> list[Job]:
    """The same pictures, all sent at once, without readers, cancellations and poison."""
    quiet: dict[str, Any] = {"at": 0.0, "together": 1, "cancel_after": None, "by_post": False, "readings": ()}
    quiet |= {"start_seconds": None, "webhook": False}
    return [replace(job, **quiet) for job in jobs if job.poison is None]


async def run(
    plan: Plan, jobs: Sequence[Job], faults: Sequence[Fault], logs: Path, appendonly: bool = True
) -> tuple[History, Figures, Counter[str], dict[str, Any]]:
    write_schedule(logs, faults)
    with tempfile.TemporaryDirectory(prefix="arpg-", dir=SCRATCH) as folder, receiving(200) as receiver:
        server = Server(Path(folder), appendonly=appendonly)
        await server.start()
        setup = Setup(
            logs=logs, namespace="chaos", lease=plan.lease, max_lost=plan.max_lost, max_queued=plan.max_queued,
            models=(str(plan.folder),) if plan.folder else plan.load.models, folder=plan.folder, mutant=plan.mutant,
            webhook_hosts=(receiver.url,), environment={} if appendonly else {"ARPG_ALLOW_UNSAFE_REDIS": "1"},
        )  # fmt: skip
        headers = hand_out_keys(setup.data, plan.load.clients, plan.quota)
        async with cluster.running(setup, server) as them:
            history = History()
            clients = Clients(them.urls, history, headers=headers, receiver=receiver.url)
            try:
                await ready(them, plan.load.models, next(iter(headers.values())))
                happened = await storm(plan, jobs, faults, them, clients, history)
                await truth.called(history, receiver, server.url, plan.patience)
                await truth.gather(history, clients, jobs, server.url, setup.settings(server.url))
                more = {
                    "worker processes": sum(place.ends.total() + 1 for place in them.workers),
                    "front end processes": sum(place.ends.total() + 1 for place in them.front_ends),
                    "replies lost": them.replies_lost,
                    "seconds short of a core": them.starved(),
                }
                history.complaints += await them.stop()
            finally:
                await clients.aclose()
                with contextlib.suppress(ProcessLookupError):
                    await server.kill()
    return history, clients.figures, happened, more


def hand_out_keys(folder: Path, names: Sequence[str], quota: int) -> dict[str, dict[str, str]]:
    """Makes a key for each client. Returns each client's headers."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "keys.jsonl"
    file.unlink(missing_ok=True)  # left by an earlier run with the same logs
    headers = {}
    for name in names:
        text, key = keys.make(name, quota=quota, rate=0)
        key_store.add(file, key)
        headers[name] = {"Authorization": f"Bearer {text}"}
    return headers


def write_schedule(logs: Path, faults: Sequence[Fault]) -> None:
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "schedule.json").write_text(json.dumps([asdict(fault) for fault in faults]))


async def storm(
    plan: Plan, jobs: Sequence[Job], faults: Sequence[Fault], them: Cluster, clients: Clients, history: History
) -> Counter[str]:
    """Runs clients and faults until every client knows how its job ended, or until patience runs out."""
    began = time.monotonic()
    lives = {asyncio.create_task(clients.live(job), name=job.key): job for job in jobs}
    if faults:
        await truth.drawing(them.server.url, plan.patience)
    happened = await inflict(faults, them)
    left = plan.load.seconds - (time.monotonic() - began)
    done, pending = await asyncio.wait(lives, timeout=max(0.0, left) + plan.patience)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        if (error := task.exception()) is not None:
            history.complaints.append(f"client {lives[task].key}: {type(error).__name__}: {error}")
    await truth.quiet(them.server.url, plan.patience if not pending else 1.0)
    return happened


async def ready(them: Cluster, models: Sequence[str], headers: dict[str, str], seconds: float = 60.0) -> None:
    """Waits until every API replica is ready and lists all models."""
    deadline = time.monotonic() + seconds
    async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
        for url in them.urls:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await http.get(f"{url}/v1/models", headers=headers)
                    served = {model["id"] for model in answer.json()["models"]} if answer.status_code == 200 else set()
                    if set(models) <= served and (await http.get(f"{url}/readyz")).status_code == 200:
                        break
                if time.monotonic() > deadline:
                    raise RuntimeError("the cluster is not ready: see the logs")
                await asyncio.sleep(0.1)


def summary(history: History, figures: Figures) -> dict[str, Any]:
    attempts = [int(events[-1].id.partition("-")[0]) for events in history.streams.values() if events]
    seconds = sorted(figures.seconds)
    return {
        "jobs": len(history.outcomes),
        "states": dict(Counter(outcome.state for outcome in history.outcomes.values())),
        "errors": dict(Counter(outcome.error for outcome in history.outcomes.values() if outcome.error)),
        "events": sum(map(len, history.streams.values())),
        "attempts": {str(count): number for count, number in sorted(Counter(attempts).items())},
        "readers": len(history.views),
        "connections": sum(view.connections for view in history.views),
        "cancels": dict(Counter(state for told in history.cancels.values() for state in told)),
        "answers": {str(status): number for status, number in sorted(figures.answers.items())},
        "unreachable": figures.unreachable,
        "stream errors": dict(figures.errors_told),
        "median seconds": round(statistics.median(seconds), 2) if seconds else None,
        "longest seconds": round(seconds[-1], 2) if seconds else None,
    }

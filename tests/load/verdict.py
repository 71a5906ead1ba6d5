"""Compares what was recorded with what the load test promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.load.growth import Growth, growth
from tests.load.record import JobNote, Record, Sample
from tests.load.shares import of_fair_share
from tests.load.watch import GENERATOR

OF_CAPACITY = 0.8
OF_FAIR_SHARE = 0.5
MAX_GROWTH = 0.01
TEN_MINUTES = 600.0
A_LITTLE = 2**16
"""Bytes by which the store may have grown at the end: names of clients and models, but nothing for each job."""
OF_A_CORE = 0.5
"""Share of a core that the clients may use: a busy load generator would measure itself."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Per second, of the jobs that succeeded: KV tokens (a job's cost in the queue), pictures, jobs."""

    cost: float
    pictures: float
    jobs: float


@dataclass(frozen=True, slots=True)
class Promise:
    """kept: None if it could not be measured."""

    name: str
    kept: bool | None
    measured: str


@dataclass(frozen=True, slots=True)
class Phase:
    """From begin to end; the time from settled to end is judged. Seconds since the epoch."""

    begin: float
    settled: float
    end: float


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What should be gone at the end, by name and amount.

    queue: after all jobs have ended. store: after all jobs have expired. held: bytes that the keys then take, less
    those at the start.
    """

    queue: Mapping[str, float] = field(default_factory=dict)
    store: Mapping[str, float] = field(default_factory=dict)
    held: int = 0


def rate(jobs: Iterable[JobNote], seconds: float) -> Rate:
    jobs = list(jobs)
    cost, pictures = sum(job.cost for job in jobs), sum(job.images for job in jobs)
    return Rate(cost / seconds, pictures / seconds, len(jobs) / seconds)


@dataclass(frozen=True, slots=True)
class Verdict:
    """shares: of each client that always had jobs waiting, in units of its fair share. cpu: cores busy by process."""

    capacity: Rate
    reached: Rate
    shares: dict[str, float]
    memory: dict[str, Growth]
    cpu: dict[str, float]
    promises: tuple[Promise, ...]

    @property
    def kept(self) -> bool:
        return all(promise.kept is not False for promise in self.promises)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"kept": self.kept}


def judge(
    record: Record,
    capacities: Sequence[Phase],
    load: Phase,
    weights: Mapping[str, float],
    left: Leftovers,
    exit_status: int,
) -> Verdict:
    """capacities: phases that saturate the service; the best one counts. weights: by client; empty without keys."""
    samples = [sample for sample in record.samples if load.settled <= sample.time < load.end]
    able = max((_reached(record, phase) for phase in capacities), key=lambda rate: rate.cost)
    reached = _reached(record, load)
    shares = _shares(record, load, samples, weights)
    memory, cores = _memory(samples), _cores(samples)
    promises = (
        _no_errors(record),
        _throughput(able, reached),
        _fairness(shares, weights),
        _evenness(record, load),
        *(_no_leak(name, found) for name, found in memory.items() if name != GENERATOR),
        _streams(record),
        _all_ended(record),
        _clients_idle(cores),
        Promise("queue empty at the end", not left.queue, _listed(left.queue) or "nothing left"),
        Promise("every key expires on time", not left.store, _listed(left.store) or "no key is left"),
        Promise("the store does not grow", left.held < A_LITTLE, f"{left.held / 1024:+.0f} KiB"),
        Promise("the service stopped on SIGTERM", exit_status == 0, f"exit status {exit_status}"),
    )
    return Verdict(able, reached, shares, memory, cores, promises)


def _reached(record: Record, phase: Phase) -> Rate:
    return rate(record.drawn(phase.settled, phase.end), phase.end - phase.settled)


def _shares(record: Record, load: Phase, samples: list[Sample], weights: Mapping[str, float]) -> dict[str, float]:
    got: Counter[str] = Counter()
    for job in record.drawn(load.settled, load.end):
        got[job.client] += job.cost
    return of_fair_share(got, weights, [sample.waiting.keys() & weights.keys() for sample in samples])


def _memory(samples: list[Sample]) -> dict[str, Growth]:
    if len(samples) < 10:
        return {}
    times = [sample.time for sample in samples]
    return {name: growth(times, [sample.rss[name] for sample in samples]) for name in samples[0].rss}


def _cores(samples: list[Sample]) -> dict[str, float]:
    if len(samples) < 2:
        return {}
    first, last = samples[0], samples[-1]
    return {name: (last.cpu[name] - first.cpu[name]) / (last.time - first.time) for name in first.cpu}


def _no_errors(record: Record) -> Promise:
    count = sum(record.answers.values())
    if not record.failed:
        later = sum(n for (_, status), n in record.answers.items() if status in (429, 503))
        return Promise(
            "no error but 429 and 503 with Retry-After", True, f"{count} answers, {later} of them 429 or 503"
        )
    return Promise("no error but 429 and 503 with Retry-After", False, _listed(record.failed))


def _throughput(able: Rate, reached: Rate) -> Promise:
    share = reached.cost / able.cost if able.cost else 0.0
    measured = f"{share:.0%}: {reached.cost:.0f} of {able.cost:.0f} KV tokens a second"
    return Promise(f"completed rate at least {OF_CAPACITY:.0%} of the capacity", share >= OF_CAPACITY, measured)


def _fairness(shares: Mapping[str, float], weights: Mapping[str, float]) -> Promise:
    name = f"no client below {OF_FAIR_SHARE:.0%} of its fair share"
    if not weights:
        return Promise(name, None, "the service has no keys and cannot tell clients apart")
    if len(shares) < 2:
        return Promise(name, None, "fewer than two clients always had jobs waiting")
    measured = f"lowest {min(shares.values()):.0%}, of {len(shares)} clients that always had jobs waiting"
    return Promise(name, min(shares.values()) >= OF_FAIR_SHARE, measured)


def _evenness(record: Record, load: Phase) -> Promise:
    """Compares the customers of one client, who all have the same mix of tasks and the same pauses."""
    of_client: dict[str, Counter[str]] = {}
    for job in record.jobs.values():
        if job.created >= load.begin:  # counts customers without a result, too
            drawn = job.state == "succeeded" and load.settled <= job.finished < load.end
            of_client.setdefault(job.client, Counter())[job.customer] += drawn
    name = f"no customer below {OF_FAIR_SHARE:.0%} of what the others of its client got"
    shares = [
        count / (each.total() / len(each)) if each.total() else 0.0
        for each in of_client.values()
        for count in each.values()
    ]
    if not shares:
        return Promise(name, None, "no customer sent a request")
    return Promise(name, min(shares) >= OF_FAIR_SHARE, f"lowest {min(shares):.0%} of {len(shares)} customers")


def _no_leak(process: str, found: Growth) -> Promise:
    share = found.share(TEN_MINUTES)
    name = f"memory of {process} grows less than {MAX_GROWTH:.0%} in 10 minutes"
    return Promise(name, share < MAX_GROWTH, f"{share:+.2%} of {found.level / 2**20:.0f} MiB")


def _streams(record: Record) -> Promise:
    ended = record.streams["ended with one terminal event"]
    wrong = sum(count for what, count in record.failed.items() if "events of" in what or "stream of" in what)
    return Promise("every stream ends with one terminal event", ended > 0 and not wrong, f"{ended} did, {wrong} not")


def _all_ended(record: Record) -> Promise:
    left = record.unfinished()
    return Promise("every accepted job has ended", not left, f"{len(record.jobs)} jobs, {len(left)} of them not")


def _clients_idle(cores: Mapping[str, float]) -> Promise:
    busy = cores.get(GENERATOR)
    name = f"the load generator takes less than {OF_A_CORE:.0%} of a core"
    return Promise(name, None if busy is None else busy < OF_A_CORE, "too short" if busy is None else f"{busy:.0%}")


def _listed(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name}: {count:g}" for name, count in counts.items())

"""Records what happened. Times are seconds since the epoch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

KEPT_FAILURES = 200


@dataclass(slots=True)
class JobNote:
    """An accepted job. The queue's figures are filled in after its end.

    client: the key's owner. customer: one of the many that share the key.
    """

    client: str
    task: str
    state: str = ""
    cost: int = 0
    images: int = 0
    created: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    customer: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the service. rss (bytes) and cpu (seconds so far): by process. waiting: queued jobs by client."""

    time: float
    rss: dict[str, int]
    cpu: dict[str, float]
    waiting: dict[str, int]
    series: dict[str, float]


@dataclass(frozen=True, slots=True)
class Failure:
    """A response, a stream or a job that breaks a promise."""

    time: float
    what: str
    detail: str


@dataclass(slots=True)
class Record:
    """Everything that happened in a run.

    answers: responses by task or route and status. latencies: (time of completion, seconds) by task. streams: how
    streams ended.
    """

    jobs: dict[str, JobNote] = field(default_factory=dict)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    latencies: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    streams: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)

    def fails(self, what: str, detail: str) -> None:
        self.failed[what] += 1
        if len(self.failures) < KEPT_FAILURES:
            self.failures.append(Failure(time.time(), what, detail[:400]))

    def took(self, task: str, seconds: float) -> None:
        self.latencies.setdefault(task, []).append((time.time(), seconds))

    def accepted(self, job_id: str, client: str, task: str, customer: str = "") -> None:
        self.jobs.setdefault(job_id, JobNote(client, task, customer=customer))

    def unfinished(self) -> list[str]:
        return [id for id, job in self.jobs.items() if not job.state]

    def drawn(self, begin: float, end: float) -> Iterator[JobNote]:
        """Yields the jobs that succeeded in this time."""
        for job in self.jobs.values():
            if job.state == "succeeded" and begin <= job.finished < end:
                yield job

    def to_json(self) -> dict[str, Any]:
        """Counts; single jobs are left out."""
        return {
            "jobs": dict(Counter(f"{job.task} {job.state or 'unknown'}" for job in self.jobs.values())),
            "answers": {f"{what} {status}": count for (what, status), count in sorted(self.answers.items())},
            "streams": dict(self.streams),
            "failed": dict(self.failed),
            "failures": [asdict(failure) for failure in self.failures],
        }

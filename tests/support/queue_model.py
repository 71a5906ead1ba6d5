"""What must hold of a queue's jobs whatever is done to them: the verbs once more, in Python and without a server; and
how a server's keys are compared with that."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from redis.asyncio import Redis

from service.jobs import BlobStore, Queue, QueueConfig, connect
from service.jobs.queue import UNLIMITED
from tests.support.queue import decoded

T = TypeVar("T")
IDS = ["a", "b", "c", "d", "e", "f"]
PICK = st.integers(0, 59)
AGE = st.sampled_from([0, 0, 0, 1, 2])
DATA = b"picture"
# A lease ends, and a poison candidate has waited too long, when a rule says so, not when the machine is slow.
PATIENT = QueueConfig(lease_seconds=1000, max_queued=4, max_lost=2, quarantine_seconds=1000)
HASTY = QueueConfig(lease_seconds=1000, max_queued=4, max_lost=2, quarantine_seconds=0)

TERMINAL = {"succeeded": "completed", "failed": "failed", "canceled": "canceled"}
PIXELS_PER_TOKEN = 4096
# What a claim may take.
FIRST: dict[str, Any] = {"budget": 30, "limit": 4, "alone": True, "most_pixels": UNLIMITED}
LIMITS = st.fixed_dictionaries(
    {
        "budget": st.integers(0, 30),
        "limit": st.integers(1, 4),
        "alone": st.booleans(),
        "most_pixels": st.sampled_from([UNLIMITED, UNLIMITED, 2**15]),
    }
)
SHARES = {"low": 0.25, "normal": 1.0, "high": 4.0}


@dataclass
class Known:
    """A job."""

    client: str
    flow: str
    cost: int
    pixels: int
    weight: float
    score: float  # where it starts in virtual time
    state: str = "queued"
    attempt: int = 0
    sequence: int = 0
    cancel: bool = False
    expired: bool = False
    deadline: bool = False  # it has a start deadline
    late: bool = False  # which is over
    alone: int = 0  # the last attempt that had nothing beside it
    blames: int = 0
    lost: int = 0  # of these, while it was alone
    silent: dict[int, int] = field(default_factory=dict)  # attempts blamed on a worker that may return → 1: alone
    published: list[str] = field(default_factory=list)  # the worker's events, as ids
    held: set[str] = field(default_factory=set)  # blobs, until it ends
    kept: set[str] = field(default_factory=set)  # blobs, from then on
    pictures: set[int] = field(default_factory=set)  # finished ones

    @property
    def end(self) -> float:
        """Where it ends in virtual time."""
        return self.score + (self.cost + self.pixels / PIXELS_PER_TOKEN) / self.weight

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL

    @property
    def is_candidate(self) -> bool:
        return self.blames > 0

    def owned_by(self, attempt: int) -> bool:
        return self.state == "running" and self.attempt == attempt

    def blame(self) -> int:
        """1: it was alone."""
        alone = int(self.alone == self.attempt)
        self.blames += 1
        self.lost += alone
        return alone

    def absolve(self, attempt: int) -> None:
        if attempt in self.silent:
            self.lost -= self.silent.pop(attempt)
            self.blames -= 1

    def stay_blamed(self, attempt: int) -> None:
        self.silent.pop(attempt, None)

    def come_back(self, max_lost: int) -> None:
        self.state = "canceled" if self.cancel else "failed" if self.lost >= max_lost else "queued"
        self.expired = False


@dataclass
class Model:
    """Of one model's jobs."""

    max_lost: int
    jobs: dict[str, Known] = field(default_factory=dict)
    tags: dict[str, float] = field(default_factory=dict)  # flow → where its next job starts, at the earliest
    virtual: float = 0.0
    emptying: str | None = None  # the worker that takes nothing more until it has a poison candidate

    def waiting_to_start(self) -> set[str]:
        """The jobs that end when their start deadline is over."""
        queued = self.in_state("queued")
        return {job_id for job_id in queued if self.jobs[job_id].deadline and self.jobs[job_id].attempt == 0}

    def fail_late(self) -> set[str]:
        """Those that end with it."""
        late = sorted(job_id for job_id in self.waiting_to_start() if self.jobs[job_id].late)
        for job_id in late:
            self.give_place_back(self.jobs[job_id])
            self.jobs[job_id].state = "failed"
        return set(late)

    def give_place_back(self, job: Known) -> None:
        if job.attempt == 0 and job.state == "queued" and self.tags[job.flow] == job.end:
            self.tags[job.flow] = job.score

    def in_state(self, state: str) -> set[str]:
        return {job_id for job_id, job in self.jobs.items() if job.state == state}

    def ready(self) -> list[str]:
        places = [
            (job.score, job_id) for job_id, job in self.jobs.items() if job.state == "queued" and not job.is_candidate
        ]
        return [job_id for _, job_id in sorted(places)]

    def candidates(self) -> set[str]:
        return {job_id for job_id in self.in_state("queued") if self.jobs[job_id].is_candidate}

    def unfinished(self) -> dict[str, int]:
        clients = [job.client for job in self.jobs.values() if not job.ended]
        return {client: clients.count(client) for client in set(clients)}

    def kept_bytes(self, each: int) -> dict[str, int]:
        """By the clients whose ended jobs keep blobs."""
        counts: dict[str, int] = {}
        for job in self.jobs.values():
            if job.ended and job.kept:
                counts[job.client] = counts.get(job.client, 0) + each * len(job.kept)
        return counts

    def submit(self, job_id: str, client: str, priority: str, cost: int, pixels: int, weight: float) -> Known:
        flow, weight = f"{priority}:{client}", weight * SHARES[priority]
        start = max(self.virtual, self.tags.get(flow, 0.0))
        self.jobs[job_id] = Known(client, flow, cost, pixels, weight, start)
        self.tags[flow] = self.jobs[job_id].end
        return self.jobs[job_id]

    def reap(self) -> set[str]:
        """Those that end with it."""
        expired = {job_id: job for job_id, job in self.jobs.items() if job.state == "running" and job.expired}
        for job in expired.values():
            job.silent[job.attempt] = job.blame()
            job.come_back(self.max_lost)
        return {job_id for job_id, job in expired.items() if job.ended}

    def fitting(self, budget: int, limit: int, alone: bool, most_pixels: int, held: dict[str, int]) -> list[str]:
        """The ready jobs that a claim gets."""
        fitting: list[str] = []
        held = Counter(held)
        for job_id in self.ready():
            job = self.jobs[job_id]
            full = held[job.client] >= most_pixels / 2 or sum(held.values()) >= most_pixels
            if held[job.client] and full:
                continue
            if len(fitting) == limit or (job.cost > budget and not (alone and not fitting)):
                break
            budget -= job.cost
            held[job.client] += job.pixels
            fitting.append(job_id)
        return fitting

    def grant(self, job_id: str, as_candidate: bool) -> None:
        job = self.jobs[job_id]
        job.state, job.attempt, job.sequence = "running", job.attempt + 1, 0
        if as_candidate:
            job.alone = job.attempt
        else:
            self.virtual = max(self.virtual, job.score)

    def cancel(self, job_id: str) -> str:
        if (job := self.jobs.get(job_id)) is None:
            return "unknown"
        if job.ended:
            return "finished"
        if job.state == "running" and not job.expired:
            job.cancel = True
            return "requested"
        self.give_place_back(job)
        job.state = "canceled"
        return "canceled"


async def everything(redis: Redis, config: QueueConfig, ids: list[str]) -> list[Any]:
    """What the server holds: its sets and counts, then three answers for each job."""
    prefix = config.prefix
    async with redis.pipeline() as pipe:
        for places in ("ready", "quarantine", "leases"):
            pipe.zrange(config.line_key(places, "m"), 0, -1)
        pipe.zrange(f"{prefix}unstarted", 0, -1)
        pipe.hkeys(f"{prefix}blob_sizes")
        pipe.get(f"{prefix}blob_bytes")
        pipe.get(f"{prefix}upload_bytes")
        pipe.zrange(f"{prefix}kept_bytes", 0, -1, withscores=True)
        pipe.hgetall(f"{prefix}unfinished")
        pipe.zrange(f"{prefix}unended", 0, -1)
        for job_id in ids:
            pipe.hmget(f"{prefix}job:{job_id}", "state", "attempt", "blames", "lost")
            pipe.xrange(f"{prefix}events:{job_id}")
            pipe.hkeys(f"{prefix}pictures:{job_id}")
        return await pipe.execute()


def check_job(job: Known, values: list[Any], entries: list[Any], pictures: list[Any]) -> None:
    """The job's hash, stream and pictures on the server are what the model says."""
    state, attempt, blames, lost = values
    assert (state.decode(), int(attempt)) == (job.state, job.attempt)
    assert (int(blames or 0), int(lost)) == (job.blames, job.lost)
    assert {int(picture) for picture in pictures} == (set() if job.ended else job.pictures)
    numbers = [tuple(map(int, entry_id.split(b"-"))) for entry_id, _ in entries]
    assert numbers == sorted(set(numbers))
    told = [i.decode() for i, fields in entries if fields[b"event"] == b"tokens"]
    assert told == job.published
    names = [fields[b"event"].decode() for _, fields in entries]
    ends = [name for name in names if name in TERMINAL.values()]
    assert ends == ([TERMINAL[job.state]] if job.ended else [])
    assert not ends or names[-1] == ends[0]


async def check_lists(redis: Redis, config: QueueConfig, jobs: Mapping[str, Known]) -> None:
    """Each client's list has its jobs in the order of their creation, and knows those that ended."""
    for client in {job.client for job in jobs.values()}:
        own = [job_id for job_id, job in jobs.items() if job.client == client]
        listed = await redis.zrange(f"{config.prefix}jobs_of:{client}", 0, -1)
        assert [decoded(job_id) for job_id in listed] == own
        ended = await redis.zrange(f"{config.prefix}ended_of:{client}", 0, -1)
        assert {decoded(job_id) for job_id in ended} == {job_id for job_id in own if jobs[job_id].ended}
        life = await redis.pttl(f"{config.prefix}jobs_of:{client}")
        assert (life == -1) == any(not jobs[job_id].ended for job_id in own)  # -1: it does not expire


class Driver(RuleBasedStateMachine):
    """A queue on a server, beside the model of what must hold."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = connect(self.url)
        self.queue, self.hasty = Queue(self.redis, PATIENT), Queue(self.redis, HASTY)
        self.blobs = BlobStore(self.redis, PATIENT)
        self.model = Model(PATIENT.max_lost)
        self.jobs = self.model.jobs

    def do(self, call: Awaitable[T]) -> T:
        async def wrapped() -> T:
            return await call

        return self.runner.run(wrapped())

    def mostly(self, state: str, pick: int) -> str:
        """A job in this state, if there is one; one pick in six is any job, known or not."""
        fitting = sorted(self.model.in_state(state))
        choices = fitting if fitting and pick % 6 else IDS
        return choices[pick % len(choices)]

    def by(self, job_id: str, age: int) -> tuple[Known | None, int, bool]:
        """Who speaks: the job, the attempt, and whether it is the job's owner."""
        job = self.jobs.get(job_id)
        attempt = max(1, (job.attempt if job else 0) - age)
        return job, attempt, job is not None and job.owned_by(attempt)

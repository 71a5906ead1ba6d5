"""Any sequence of verbs, by owners and by zombies, once or twice, against a model of what must hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.queue import Blobs, NewJob, Publication, Queue, QueueConfig, connect

T = TypeVar("T")
IDS = ["a", "b", "c", "d", "e", "f"]
PICK = st.integers(0, 59)
TERMINAL = {"succeeded": "completed", "failed": "failed", "canceled": "canceled"}
MAX_LOST = 3
DATA = b"picture"
# A claim's lease is stretched at once: a lease ends when a rule says so, not when the machine is slow.
CLAIMING = QueueConfig(lease_seconds=0.9, max_queued=4, max_lost=MAX_LOST)
HOLDING = QueueConfig(lease_seconds=1000, max_queued=4, max_lost=MAX_LOST)


@dataclass
class Known:
    cost: int
    state: str = "queued"
    attempt: int = 0
    lost: int = 0
    sequence: int = 0
    cancel: bool = False
    expired: bool = False
    published: list[str] = field(default_factory=list)  # the worker's events, as ids
    held: set[str] = field(default_factory=set)  # blobs, until it ends
    kept: set[str] = field(default_factory=set)  # blobs, from then on


class Verbs(RuleBasedStateMachine):
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = connect(self.url)
        self.claiming, self.queue = Queue(self.redis, CLAIMING), Queue(self.redis, HOLDING)
        self.blobs = Blobs(self.redis, HOLDING)
        self.jobs: dict[str, Known] = {}

    def do(self, call: Awaitable[T]) -> T:
        async def wrapped() -> T:
            return await call

        return self.runner.run(wrapped())

    @initialize()
    def empty(self) -> None:
        self.do(self.redis.flushall())
        for job_id in IDS[:3]:
            self.submit(job_id, job_id, 3, 1.0)

    def teardown(self) -> None:
        self.do(self.redis.aclose())
        self.runner.close()

    def ready(self) -> list[str]:
        return [i.decode() for i in self.do(self.redis.zrange(f"{HOLDING.prefix}ready:m", 0, -1))]

    def mostly(self, state: str, pick: int) -> str:
        """A job in this state, if there is one; one pick in six is any job, known or not."""
        fitting = sorted(i for i, job in self.jobs.items() if job.state == state)
        choices = fitting if fitting and pick % 6 else IDS
        return choices[pick % len(choices)]

    def queued(self) -> set[str]:
        return {i for i, job in self.jobs.items() if job.state == "queued"}

    @rule(job_id=st.sampled_from(IDS), client=st.sampled_from("xyz"), cost=st.integers(1, 9), weight=st.floats(0.5, 4))
    def submit(self, job_id: str, client: str, cost: int, weight: float) -> None:
        upload = f"{job_id}/image"
        job = NewJob(id=job_id, model="m", client=client, cost=cost, weight=weight, payload={}, blobs=(upload,))
        if job_id not in self.jobs:
            self.do(self.blobs.put(upload, DATA))
        if job_id not in self.jobs and len(self.queued()) >= HOLDING.max_queued:
            with pytest.raises(Exception, match="wait for model"):
                self.do(self.queue.submit(job))
            assert self.do(self.blobs.delete(upload))
            return
        answer = self.do(self.queue.submit(job))
        assert answer.created == (job_id not in self.jobs)
        self.jobs.setdefault(job_id, Known(cost, held={upload}))
        assert answer.state == self.jobs[job_id].state

    @precondition(lambda self: any(job.state == "queued" or job.expired for job in self.jobs.values()))
    @rule(budget=st.integers(0, 30), limit=st.integers(1, 4), alone=st.booleans())
    def claim(self, budget: int, limit: int, alone: bool) -> None:
        for job in self.jobs.values():
            if job.state == "running" and job.expired:
                job.lost += 1
                job.state = "canceled" if job.cancel else "failed" if job.lost >= MAX_LOST else "queued"
                job.expired = False
        claims = self.do(self.claiming.claim("m", "w", budget=budget, limit=limit, alone=alone))
        held = [Publication(job_id=c.id, attempt=c.attempt, sequence=0, event=None) for c in claims]
        self.do(self.queue.publish(held))
        left = self.ready()
        order = [c.id for c in claims] + left  # what was ready before, if a prefix of it was taken
        assert set(order) == self.queued()
        assert len(order) == len(set(order))
        assert len(claims) <= limit
        spent = sum(c.cost for c in claims)
        assert spent <= budget or (alone and len(claims) == 1)
        if left and len(claims) < limit:  # it stopped at the first that does not fit
            assert spent + self.jobs[left[0]].cost > budget
            assert claims or not alone
        for c in claims:
            job = self.jobs[c.id]
            assert c.attempt == job.attempt + 1
            job.state, job.attempt, job.sequence = "running", c.attempt, 0

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1, 2]), again=st.booleans(), event=st.sampled_from(["tokens", None]))
    def publish(self, pick: int, age: int, again: bool, event: str | None) -> None:
        job_id = self.mostly("running", pick)
        job = self.jobs.get(job_id)
        attempt = max(1, (job.attempt if job else 0) - age)
        owner = job is not None and job.state == "running" and attempt == job.attempt
        sequence = 1 + (job.sequence if job and owner else 0)
        said = Publication(job_id=job_id, attempt=attempt, sequence=sequence, event=event, data={})
        answer = self.do(self.queue.publish([said]))[job_id]
        if not owner:
            assert answer == "lost"
            return
        assert job is not None
        job.expired = False
        assert answer == ("cancel" if job.cancel else "ok")
        if event is not None:
            job.sequence = sequence
            job.published.append(f"{attempt}-{sequence}")
            if again:
                assert self.do(self.queue.publish([said]))[job_id] == ("cancel" if job.cancel else "dup")

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1, 2]), again=st.booleans(), state=st.sampled_from(sorted(TERMINAL)))
    def finish(self, pick: int, age: int, again: bool, state: Any) -> None:
        job_id = self.mostly("running", pick)
        job = self.jobs.get(job_id)
        attempt = max(1, (job.attempt if job else 0) - age)
        fits = job is not None and attempt == job.attempt
        kept = {f"{job_id}/result/{attempt}"}
        expected = "lost"
        if fits and job is not None and job.state != "queued":
            expected = "ok" if job.state == "running" else "already"
        for answer in [expected] + ["already" if expected == "ok" else expected] * again:
            ends = {"state": state, "event": TERMINAL[state], "data": {}}
            said = self.queue.finish(job_id, attempt, 99, **ends, keep=kept if state == "succeeded" else ())
            assert self.do(said) == answer
        if expected == "ok" and job is not None:
            job.state = state
            job.kept = kept & job.held if state == "succeeded" else set()

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1]), again=st.booleans())
    def store(self, pick: int, age: int, again: bool) -> None:
        """A result, which another attempt's worker can't store."""
        job_id = self.mostly("running", pick)
        job = self.jobs.get(job_id)
        attempt = max(1, (job.attempt if job else 0) - age)
        owner = job is not None and job.state == "running" and attempt == job.attempt
        result = f"{job_id}/result/{attempt}"
        for _ in range(1 + again):
            assert self.do(self.blobs.put(result, DATA, job=(job_id, attempt))) == owner
        if owner and job is not None:
            job.held.add(result)

    @rule(pick=PICK, age=st.sampled_from([0, 0, 1]), again=st.booleans())
    def release(self, pick: int, age: int, again: bool) -> None:
        job_id = self.mostly("running", pick)
        job = self.jobs.get(job_id)
        attempt = max(1, (job.attempt if job else 0) - age)
        expected = "lost"
        if job is not None and attempt == job.attempt:
            expected = "ok" if job.state == "running" else "already"
        for answer in [expected] + ["already" if expected == "ok" else expected] * again:
            assert self.do(self.queue.release(job_id, attempt)) == answer
        if expected == "ok" and job is not None:
            job.state = "canceled" if job.cancel else "queued"
            job.expired = False

    @rule(pick=PICK, again=st.booleans())
    def cancel(self, pick: int, again: bool) -> None:
        job_id = self.mostly("running" if pick % 2 else "queued", pick)
        job = self.jobs.get(job_id)
        if job is None:
            expected = "unknown"
        elif job.state in ("succeeded", "failed"):
            expected = "finished"
        elif job.state == "running" and not job.expired:
            expected, job.cancel = "requested", True
        else:
            expected, job.state = "canceled", "canceled"
        for _ in range(1 + again):
            assert self.do(self.queue.cancel(job_id)) == expected

    @rule(pick=PICK)
    def worker_dies(self, pick: int) -> None:
        job_id = self.mostly("running", pick)
        job = self.jobs.get(job_id)
        if job is not None and job.state == "running":
            job.expired = True
            self.do(self.redis.zadd(f"{HOLDING.prefix}leases:m", {job_id: 1}))

    @rule(pick=PICK)
    def overtaken(self, pick: int) -> None:
        self.worker_dies(pick)
        self.claim(30, 4, True)

    @precondition(lambda self: any(j.state == "running" and j.attempt > 1 for j in self.jobs.values()))
    @rule(pick=PICK)
    def zombie_returns(self, pick: int) -> None:
        heirs = sorted(i for i, job in self.jobs.items() if job.state == "running" and job.attempt > 1)
        job_id = heirs[pick % len(heirs)]
        old = self.jobs[job_id].attempt - 1
        for event in ("tokens", None):
            said = Publication(job_id=job_id, attempt=old, sequence=50, event=event, data={})
            assert self.do(self.queue.publish([said])) == {job_id: "lost"}
        end = self.queue.finish(job_id, old, 60, state="succeeded", event="completed", data={})
        assert self.do(end) == "lost"
        assert self.do(self.queue.release(job_id, old)) == "lost"

    @invariant()
    def sets_and_streams_are_the_states(self) -> None:
        prefix, ids = HOLDING.prefix, sorted(self.jobs)

        async def read() -> list[Any]:
            async with self.redis.pipeline() as pipe:
                pipe.zrange(f"{prefix}ready:m", 0, -1)
                pipe.zrange(f"{prefix}leases:m", 0, -1)
                pipe.hkeys(f"{prefix}blob_sizes")
                pipe.get(f"{prefix}blob_bytes")
                for job_id in ids:
                    pipe.hmget(f"{prefix}job:{job_id}", "state", "attempt")
                    pipe.xrange(f"{prefix}events:{job_id}")
                return await pipe.execute()

        ready, leased, stored, stored_bytes, *held = self.do(read())
        blobs = {name for job in self.jobs.values() for name in (job.kept if job.state in TERMINAL else job.held)}
        assert {name.decode() for name in stored} == blobs
        assert int(stored_bytes or 0) == len(DATA) * len(blobs)
        assert {i.decode() for i in ready} == self.queued()
        assert {i.decode() for i in leased} == {i for i, job in self.jobs.items() if job.state == "running"}
        for job_id, (state, attempt), entries in zip(ids, held[::2], held[1::2], strict=True):
            job = self.jobs[job_id]
            assert (state.decode(), int(attempt)) == (job.state, job.attempt)
            numbers = [tuple(map(int, entry_id.split(b"-"))) for entry_id, _ in entries]
            assert numbers == sorted(set(numbers))
            told = [i.decode() for i, fields in entries if fields[b"event"] == b"tokens"]
            assert told == job.published
            names = [fields[b"event"].decode() for _, fields in entries]
            ends = [name for name in names if name in TERMINAL.values()]
            assert ends == ([TERMINAL[job.state]] if job.state in TERMINAL else [])
            assert not ends or names[-1] == ends[0]


def test_verbs_under_any_sequence(redis_url: str) -> None:
    Verbs.url = redis_url
    with redis.Redis.from_url(redis_url) as client:
        if client.info("server")["uptime_in_seconds"] < 1:  # below a lease, nothing is taken for lost
            time.sleep(1)
    run_state_machine_as_test(
        Verbs,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""Any sequence of verbs, by owners and by zombies, once or twice, against a model of what must hold."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from service.jobs import NewJob, Publication, QueueFull, QuotaFull
from tests.support.queue_model import (
    AGE,
    DATA,
    FIRST,
    IDS,
    LIMITS,
    PATIENT,
    PICK,
    SHARES,
    TERMINAL,
    Driver,
    check_job,
    check_lists,
    everything,
)


class Verbs(Driver):
    @initialize()
    def empty(self) -> None:
        self.do(self.redis.flushall())
        for job_id in IDS[:3]:
            self.submit(job_id, job_id, "normal", None, 3, 1.0, None)

    def teardown(self) -> None:
        """Whatever happened, every job can come to its end, and nothing is left of any."""
        for job_id in sorted(self.model.in_state("running")):
            self.expire(job_id)
        while self.model.in_state("queued") | self.model.in_state("running"):
            for job_id in self.granted(FIRST | {"limit": 1}, True, "last", False):
                self.end(job_id, self.jobs[job_id].attempt, "succeeded", set())
        self.sets_and_streams_are_the_states()
        assert self.do(self.redis.hgetall(f"{PATIENT.prefix}unfinished")) == {}
        self.do(self.redis.aclose())
        self.runner.close()

    @rule(
        job_id=st.sampled_from(IDS),
        client=st.sampled_from("xyz"),
        priority=st.sampled_from(sorted(SHARES)),
        quota=st.sampled_from([None, None, 0, 1, 2]),
        cost=st.integers(1, 9),
        weight=st.floats(0.5, 4),
        start=st.sampled_from([None, 1000.0]),
    )
    def submit(
        self, job_id: str, client: str, priority: Any, quota: int | None, cost: int, weight: float, start: float | None
    ) -> None:
        upload, pixels = f"{job_id}/image", 3000 * cost
        new = NewJob(
            id=job_id, model="m", client=client, cost=cost, pixels=pixels, weight=weight, priority=priority,
            quota=quota, spec=job_id, blobs=(upload,), start_seconds=start,
        )  # fmt: skip
        refused: type[Exception] | None = None
        if job_id not in self.jobs:
            self.do(self.blobs.put(upload, DATA, client=client))
            if quota is not None and self.model.unfinished().get(client, 0) >= quota:
                refused = QuotaFull
            elif len(self.model.in_state("queued")) >= PATIENT.max_queued:
                refused = QueueFull
        if refused is not None:
            with pytest.raises(refused):
                self.do(self.queue.submit(new))
            assert self.do(self.blobs.delete(upload))
            return
        answer = self.do(self.queue.submit(new))
        assert answer.created == (job_id not in self.jobs)
        if answer.created:
            job = self.model.submit(job_id, client, priority, cost, pixels, weight)
            job.held, job.deadline = {upload}, start is not None
        assert answer.state == self.jobs[job_id].state

    @precondition(lambda self: any(job.state == "queued" or job.expired for job in self.jobs.values()))
    @rule(
        limits=LIMITS,
        empty=st.booleans(),
        worker=st.sampled_from("vw"),
        hasty=st.booleans(),
        held=st.dictionaries(st.sampled_from("xyz"), st.integers(0, 2**15)),
    )
    def claim(self, **asked: Any) -> None:
        self.granted(**asked)

    def granted(
        self, limits: dict[str, Any], empty: bool, worker: str, hasty: bool, held: dict[str, int] | None = None
    ) -> list[str]:
        model, queue = self.model, self.hasty if hasty else self.queue
        ended = model.reap() | model.fail_late()
        claims = self.do(queue.claim("m", worker, empty=empty, held=held, **limits))
        assert {(job.id, job.state, job.spec) for job in claims.ended} == {
            (job_id, self.jobs[job_id].state, job_id) for job_id in ended
        }
        ids, candidates = [claim.id for claim in claims], model.candidates()
        if candidates and empty:
            assert len(ids) == 1
            assert ids[0] in candidates
            self.is_oldest(ids[0])
        elif candidates and hasty and model.emptying in (None, worker):
            model.emptying = worker
            assert claims.become_empty
            assert ids == []
        else:
            assert ids == model.fitting(**limits, held=held or {})
        assert claims.become_empty == (candidates != set() and not empty and hasty and model.emptying == worker)
        for claim in claims:
            job = self.jobs[claim.id]
            assert claim.alone == (claim.id in candidates)
            model.grant(claim.id, claim.alone)
            assert (claim.attempt, claim.cost) == (job.attempt, job.cost)
            assert (claim.client, claim.pixels) == (job.client, job.pixels)
            assert {picture["index"] for picture in claim.pictures} == job.pictures
        return ids

    def is_oldest(self, job_id: str) -> None:
        """Of the candidates."""
        since = self.do(self.redis.hget(f"{PATIENT.prefix}job:{job_id}", "quarantined_at"))
        oldest = self.do(self.redis.zrange(PATIENT.line_key("quarantine", "m"), 0, 0, withscores=True))
        assert all(int(since or 0) <= int(place[1]) for place in oldest)

    @rule(pick=PICK, age=AGE, again=st.booleans(), event=st.sampled_from(["tokens", None]))
    def publish(self, pick: int, age: int, again: bool, event: str | None) -> None:
        job_id = self.mostly("running", pick)
        job, attempt, owner = self.by(job_id, age)
        sequence = 1 + (job.sequence if job and owner else 0)
        said = Publication(job_id=job_id, attempt=attempt, sequence=sequence, event=event)
        answer = self.do(self.queue.publish([said]))[job_id, attempt]
        if job is None or not owner:
            assert answer == "lost"
            if job is not None:
                job.absolve(attempt)
            return
        job.expired = False
        assert answer == ("cancel" if job.cancel else "ok")
        if event is not None:
            job.sequence = sequence
            job.published.append(f"{attempt}-{sequence}")
            if again:
                assert self.do(self.queue.publish([said]))[job_id, attempt] == ("cancel" if job.cancel else "dup")

    @rule(pick=PICK, age=AGE, again=st.booleans(), state=st.sampled_from(sorted(TERMINAL)))
    def finish(self, pick: int, age: int, again: bool, state: Any) -> None:
        job_id = self.mostly("running", pick)
        job, attempt, owner = self.by(job_id, age)
        kept = {f"{job_id}/result/{attempt}"}
        ended = job is not None and job.ended and job.attempt == attempt
        assert self.end(job_id, attempt, state, kept) == ("ok" if owner else "already" if ended else "lost")
        if again:
            assert self.end(job_id, attempt, state, kept) == ("already" if owner or ended else "lost")

    def end(self, job_id: str, attempt: int, state: Any, kept: set[str]) -> str:
        job, keep = self.jobs.get(job_id), kept if state == "succeeded" else ()
        said = self.queue.finish(job_id, attempt, 99, state=state, event=TERMINAL[state], data={}, keep=keep)
        answer = self.do(said)
        if answer == "ok" and job is not None:
            job.state, job.kept = state, kept & job.held if keep else set()
        elif answer == "lost" and job is not None:
            job.stay_blamed(attempt) if state == "failed" else job.absolve(attempt)
        return answer

    @rule(pick=PICK, age=AGE, again=st.booleans(), index=st.sampled_from([None, 0, 1]))
    def store(self, pick: int, age: int, again: bool, index: int | None) -> None:
        """A result, which another attempt's worker can't store."""
        job_id = self.mostly("running", pick)
        job, attempt, owner = self.by(job_id, age)
        result, picture = f"{job_id}/result/{attempt}", None if index is None else {"index": index}
        for _ in range(1 + again):
            assert self.do(self.blobs.put(result, DATA, job=(job_id, attempt), picture=picture)) == owner
        if owner and job is not None:
            job.held.add(result)
            job.pictures |= set() if index is None else {index}

    @rule(pick=PICK, age=AGE, again=st.booleans(), blamed=st.booleans())
    def give_back(self, pick: int, age: int, again: bool, blamed: bool) -> None:
        """In order, or because the engine failed over it."""
        job_id = self.mostly("running", pick)
        job, attempt, owner = self.by(job_id, age)
        expected = "already" if job is not None and job.attempt == attempt else "lost"
        if owner and job is not None:
            if blamed and not job.cancel:
                job.blame()
            job.come_back(PATIENT.max_lost if blamed else 10**9)
            expected = {"queued": "ok"}.get(job.state, job.state) if blamed else "ok"
        elif job is not None:
            job.stay_blamed(attempt) if blamed else job.absolve(attempt)
        for _ in range(1 + again):
            said = self.queue.quarantine(job_id, attempt, "engine_failed", "") if blamed else None
            answer = self.do(said or self.queue.release(job_id, attempt))
            assert answer == expected
            expected = "already" if owner else expected

    @rule(pick=PICK, again=st.booleans())
    def cancel(self, pick: int, again: bool) -> None:
        job_id = self.mostly("running" if pick % 2 else "queued", pick)
        expected = self.model.cancel(job_id)
        for _ in range(1 + again):
            assert self.do(self.queue.cancel(job_id)) == expected
            expected = "finished" if expected == "canceled" else expected

    @rule(pick=PICK)
    def worker_dies(self, pick: int) -> None:
        job_id = self.mostly("running", pick)
        if job_id in self.model.in_state("running"):
            self.expire(job_id)

    def expire(self, job_id: str) -> None:
        self.jobs[job_id].expired = True
        self.do(self.redis.zadd(PATIENT.line_key("leases", "m"), {job_id: 1}))

    @rule(pick=PICK)
    def overtaken(self, pick: int) -> None:
        self.worker_dies(pick)
        self.granted(FIRST, True, "w", False)

    @rule(pick=PICK, swept=st.booleans())
    def too_late(self, pick: int, swept: bool) -> None:
        """The start deadline of a job is over. Either a replica finds that out, or the next claim."""
        job_id = self.mostly("queued", pick)
        if job_id in self.model.waiting_to_start():
            self.jobs[job_id].late = True
            self.do(self.redis.hset(f"{PATIENT.prefix}job:{job_id}", "start_by", 1))
            self.do(self.redis.zadd(f"{PATIENT.prefix}unstarted", {job_id: 1}))
        if swept:
            expected = self.model.fail_late()
            assert {(job.id, job.code) for job in self.do(self.queue.expire_unstarted())} == {
                (late, "start_timeout") for late in expected
            }

    @precondition(lambda self: any(j.state == "running" and j.attempt > 1 for j in self.jobs.values()))
    @rule(pick=PICK)
    def zombie_returns(self, pick: int) -> None:
        heirs = sorted(i for i, job in self.jobs.items() if job.state == "running" and job.attempt > 1)
        job_id = heirs[pick % len(heirs)]
        job, old = self.jobs[job_id], self.jobs[job_id].attempt - 1
        job.absolve(old)
        for event in ("tokens", None):
            said = Publication(job_id=job_id, attempt=old, sequence=50, event=event)
            assert self.do(self.queue.publish([said])) == {(job_id, old): "lost"}
        assert self.end(job_id, old, "succeeded", set()) == "lost"
        assert self.do(self.queue.release(job_id, old)) == "lost"
        assert self.do(self.queue.quarantine(job_id, old, "engine_failed", "")) == "lost"

    @invariant()
    def sets_and_streams_are_the_states(self) -> None:
        ids = sorted(self.jobs)
        ready, candidates, leased, unstarted, stored, stored_bytes, upload_bytes, kept, unfinished, unended, *held = (
            self.do(everything(self.redis, PATIENT, ids))
        )
        blobs = {name for job in self.jobs.values() for name in (job.kept if job.ended else job.held)}
        assert {name.decode() for name in stored} == blobs
        assert int(stored_bytes or 0) == len(DATA) * len(blobs)
        assert int(upload_bytes or 0) == len(DATA) * len([name for name in blobs if name.endswith("/image")])
        assert {client.decode(): int(count) for client, count in kept} == self.model.kept_bytes(len(DATA))
        assert {i.decode() for i in unended} == {i for i, job in self.jobs.items() if not job.ended}
        assert {i.decode() for i in unstarted} == self.model.waiting_to_start()
        assert [i.decode() for i in ready] == self.model.ready()
        assert {i.decode() for i in candidates} == self.model.candidates()
        assert {i.decode() for i in leased} == self.model.in_state("running")
        assert {client.decode(): int(count) for client, count in unfinished.items()} == self.model.unfinished()
        for index, job_id in enumerate(ids):
            check_job(self.jobs[job_id], *held[3 * index : 3 * index + 3])
        self.do(check_lists(self.redis, PATIENT, self.jobs))


def test_verbs_under_any_sequence(redis_url: str) -> None:
    Verbs.url = redis_url
    run_state_machine_as_test(
        Verbs,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

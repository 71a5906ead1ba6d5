"""The customers: each sends a request, waits for the result in one of several ways, pauses, and repeats."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from tests.load import tasks
from tests.load.record import Record
from tests.load.web import Refused, Web

FINAL = frozenset({"succeeded", "failed", "canceled"})
SOURCE_SECONDS = 30.0
"""How long after its end a job may be another's source: well below its lifetime in the store."""


class Customer:
    """A closed loop. think: mean pause between two requests, in seconds; 0: none."""

    def __init__(self, web: Web, pictures: tasks.Pictures, *, think: float) -> None:
        self._web = web
        self._random: Random = web.random
        self._record: Record = web.record
        self._pictures = pictures
        self._think = think
        self._done: deque[tuple[float, str]] = deque(maxlen=4)  # when, and which job
        self._ways: dict[str, Callable[[str, dict[str, Any]], Awaitable[str]]] = {
            "poll": self._poll,
            "events": self._events,
            "stream": self._stream,
            "wait": self._wait,
            "picture": self._picture,
            "slow": self._slow,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Sends requests until `stop` is set, and finishes the last one."""
        await asyncio.sleep(self._random.random() * self._think)
        while not stop.is_set():
            try:
                await self._once()
            except Refused:
                await asyncio.sleep(1)  # already recorded; the pause prevents a storm of failures
            if self._think:
                await _pause(self._random.expovariate(1 / self._think), stop)

    async def _once(self) -> None:
        task = tasks.pick(tasks.MIX, self._random)
        if task == "look":
            await self._look()
            return
        if task == "wrong":
            path, fields = self._random.choice(tasks.WRONG)
            await self._web.send(task, "POST", path, json=fields, expected=(415, 422))
            return
        asked = tasks.request(task, self._random, self._pictures, self._source())
        if asked is None:
            task = "generate"
            asked = tasks.request(task, self._random, self._pictures, None)
        assert asked is not None
        asked["method"], asked["headers"] = "POST", {}
        began = time.monotonic()
        if task == "cancel":
            await self._cancel(asked)
            return
        if task == "again":
            job = await self._again(asked)
        else:
            job = await self._ways[tasks.pick(tasks.WAYS, self._random)](task, asked)
        self._record.took(task, time.monotonic() - began)
        if task in tasks.SOURCES:
            self._done.append((time.monotonic(), job))

    def _source(self) -> str | None:
        while self._done and self._done[0][0] < time.monotonic() - SOURCE_SECONDS:
            self._done.popleft()
        return self._random.choice(self._done)[1] if self._done else None

    # The ways to wait for a result. Each returns the id of a job that succeeded.

    async def _poll(self, task: str, asked: dict[str, Any]) -> str:
        return await self._until_done(task, (await self._submit(task, asked))["id"])

    async def _events(self, task: str, asked: dict[str, Any]) -> str:
        job = (await self._submit(task, asked))["id"]
        await self._web.follow(f"events of {task}", job, cuts=self._random.randrange(4))
        return await self._succeeded(task, job)

    async def _stream(self, task: str, asked: dict[str, Any]) -> str:
        cuts = self._random.randrange(2)
        job = await self._web.follow(f"stream of {task}", None, post=asked, cuts=cuts, task=task)
        return await self._succeeded(task, job)

    async def _slow(self, task: str, asked: dict[str, Any]) -> str:
        tasks.with_previews(asked, self._random)
        job = (await self._submit(task, asked))["id"]
        await self._web.follow(f"slow events of {task}", job, pause=0.05)
        return await self._succeeded(task, job)

    async def _wait(self, task: str, asked: dict[str, Any]) -> str:
        asked["headers"]["Prefer"] = "wait=60"
        job = await self._submit(task, asked)
        return await self._until_done(task, job["id"])

    async def _picture(self, task: str, asked: dict[str, Any]) -> str:
        tasks.one_picture(asked)
        asked["headers"]["Accept"] = "image/png"
        response = await self._web.send(task, **asked, expected=(200,))
        self._check_picture(task, response.content, b"\x89PNG")
        job = response.headers["x-job-id"]
        self._web.accepted(job, task)
        return job

    # Other requests.

    async def _cancel(self, asked: dict[str, Any]) -> None:
        job = (await self._submit("cancel", asked))["id"]
        await asyncio.sleep(self._random.expovariate(1 / 6))
        await self._web.send("DELETE job", "DELETE", f"/v1/jobs/{job}")
        state = await self._end_of(job)
        if state not in ("canceled", "succeeded"):
            self._record.fails(f"a cancelled job is {state}", job)

    async def _again(self, asked: dict[str, Any]) -> str:
        """Sends three copies at once with one idempotency key; they must make one job."""
        asked["headers"]["Idempotency-Key"] = f"load-{self._random.getrandbits(64):x}"
        answers = await asyncio.gather(*(self._submit("again", dict(asked)) for _ in range(3)), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        found = {answer["id"] for answer in answers if isinstance(answer, dict)}
        if len(found) != 1:
            self._record.fails("one key, several jobs", ", ".join(found))
            raise Refused
        return await self._until_done("again", found.pop())

    async def _look(self) -> None:
        path = self._random.choice(("/v1/models", "/v1/models/demo", "/v1/models/demo/classes?q=o", "/healthz"))
        await self._web.send("look", "GET", path)

    async def _submit(self, task: str, asked: dict[str, Any]) -> dict[str, Any]:
        job: dict[str, Any] = (await self._web.send(task, **asked)).json()
        self._web.accepted(job["id"], task)
        return job

    async def _until_done(self, task: str, job: str) -> str:
        await self._end_of(job)
        return await self._succeeded(task, job)

    async def _end_of(self, job: str) -> str:
        pause = 1.0
        while True:
            state: str = (await self._web.send("GET job", "GET", f"/v1/jobs/{job}", expected=(200,))).json()["status"]
            if state in FINAL:
                return state
            await asyncio.sleep(pause)
            pause = min(5.0, pause * 1.5)

    async def _succeeded(self, task: str, job: str) -> str:
        """Checks the job and one of its pictures. Raises Refused."""
        told = (await self._web.send("GET job", "GET", f"/v1/jobs/{job}", expected=(200,))).json()
        if told["status"] != "succeeded":
            self._record.fails(f"{task}: {told['status']}", f"{job}: {told['error']}")
            raise Refused
        kind, magic = self._random.choice(
            (("png", b"\x89PNG"), ("png", b"\x89PNG"), ("webp", b"RIFF"), ("jpeg", b"\xff\xd8"))
        )
        url = self._random.choice(told["images"])["url"]
        picture = await self._web.send("GET picture", "GET", f"{url}?format={kind}", expected=(200,))
        self._check_picture(task, picture.content, magic)
        return job

    def _check_picture(self, task: str, data: bytes, magic: bytes) -> None:
        if not data.startswith(magic) or len(data) < 500:
            self._record.fails(f"{task}: no picture", repr(data[:40]))
            raise Refused


async def _pause(seconds: float, stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return

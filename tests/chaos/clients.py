"""Clients that repeat requests with the same idempotency key, and readers that resume after their last event."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from tests.chaos.history import TERMINAL, Event, History, View
from tests.chaos.jobs import Job, Reading

STREAM = {"Accept": "text/event-stream"}
FRAME_PATIENCE = 20.0
"""Seconds without a frame, heartbeats included, after which a reader tries another replica."""


@dataclass(slots=True)
class Figures:
    """Counts and times as clients saw them; no rule judges them."""

    answers: Counter[int] = field(default_factory=Counter)
    unreachable: int = 0
    streams: int = 0
    errors_told: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # from submission to end, for jobs with a reader


class Clients:
    """All clients. replicas: base URLs of the API replicas. headers: by client name. receiver: the URL of webhooks."""

    def __init__(
        self, replicas: Sequence[str], history: History, *, headers: dict[str, dict[str, str]], receiver: str
    ) -> None:
        self.figures = Figures()
        self._replicas = replicas
        self._history = history
        self._headers = headers
        self._receiver = receiver
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self._http = httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(FRAME_PATIENCE), trust_env=False)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def live(self, job: Job) -> None:
        """Does everything that the client of one job does, until the client knows how the job ended."""
        await asyncio.sleep(job.at)
        began = time.monotonic()
        self._history.asked[job.key] = job.asked
        chance = random.Random(f"client {job.key}")
        ids = await asyncio.gather(*(self._submit(job, chance) for _ in range(job.together)))
        doings: list[Coroutine[Any, Any, None]] = []
        for id in dict.fromkeys(ids):
            doings += [self._follow(job, id, reading, chance) for reading in job.readings]
            if job.cancel_after is not None:
                doings.append(self._cancel(job, id, chance))
        if chance.random() < 0.1:
            doings.append(self._trespass(job, ids[0], chance))
        if job.by_post:
            doings.append(self._follow_post(job, chance))
        await asyncio.gather(*doings)
        if job.readings:
            self.figures.seconds.append(time.monotonic() - began)

    async def get(self, job: Job, path: str) -> httpx.Response:
        """Repeats the request until a replica answers."""
        return await self._asked("GET", path, job, random.Random(path))

    async def _submit(self, job: Job, chance: random.Random) -> str:
        headers = self._options(job)
        if chance.random() < 0.1:
            headers["Prefer"] = "wait=2"
        answer = await self._asked("POST", job.path, job, chance, json=job.body, headers=headers)
        if answer.status_code not in (200, 202):
            raise Refused(f"{job.path}: {answer.status_code} {answer.text[:200]}")
        id = str(answer.json()["id"])
        self._accepted(job, id)
        return id

    def _options(self, job: Job) -> dict[str, str]:
        """The headers of its request, in each copy of it."""
        options = {"Idempotency-Key": job.key}
        if job.start_seconds is not None:
            options["X-Start-Timeout"] = f"{job.start_seconds:.3f}"
        if job.webhook:
            options["X-Webhook-URL"] = self._receiver
        return options

    async def _cancel(self, job: Job, id: str, chance: random.Random) -> None:
        assert job.cancel_after is not None
        if job.cancel_drawn:
            await self._left_the_queue(job, id)
        await asyncio.sleep(job.cancel_after)
        told = self._history.cancels.setdefault(
            id, []
        )  # from here on the cancel may take effect, whatever the response
        answer = await self._asked("DELETE", f"/v1/jobs/{id}", job, chance)
        if answer.status_code in (200, 202):
            told.append(answer.json()["status"])
        else:
            self._complain(f"cancelling {id}: {answer.status_code} {answer.text[:200]}")

    async def _left_the_queue(self, job: Job, id: str) -> None:
        while True:
            if (await self.get(job, f"/v1/jobs/{id}")).json()["status"] != "queued":
                return
            await asyncio.sleep(0.02)

    async def _trespass(self, job: Job, id: str, chance: random.Random) -> None:
        """Asks for the job as another client, which must get 404."""
        stranger = replace(job, client=chance.choice([name for name in self._headers if name != job.client]))
        method, path = chance.choice((("GET", ""), ("GET", "/events"), ("GET", "/images/0"), ("DELETE", "")))
        answer = await self._asked(method, f"/v1/jobs/{id}{path}", stranger, chance, expected=404)
        if answer.status_code != 404:
            self._complain(f"{stranger.client} was let in: {method} {path} of {job.client}: {answer.status_code}")

    async def _follow(self, job: Job, id: str, reading: Reading, chance: random.Random) -> None:
        await asyncio.sleep(reading.delay)
        view = View(id)
        self._history.views.append(view)
        await self._read_on(job, view, list(reading.hops), chance)

    async def _follow_post(self, job: Job, chance: random.Random) -> None:
        """Reads the stream from the response to the POST; a fault may prevent that response."""
        headers = STREAM | self._options(job) | self._headers[job.client]
        view: View | None = None
        with contextlib.suppress(httpx.HTTPError):
            url = self._replica(chance) + job.path
            async with self._http.stream("POST", url, json=job.body, headers=headers) as answer:
                if answer.status_code == 200:
                    id = answer.headers["X-Job-ID"]
                    self._accepted(job, id)
                    view = View(id)
                    self._history.views.append(view)
                    await self._take(view, answer, chance.randint(1, 20))
        if view is not None:
            await self._read_on(job, view, [], chance)

    async def _read_on(self, job: Job, view: View, hops: list[int], chance: random.Random) -> None:
        while not view.ended:
            last = {"Last-Event-ID": view.events[-1].id} if view.events else {}
            url = f"{self._replica(chance)}/v1/jobs/{view.job}/events"
            try:
                async with self._http.stream("GET", url, headers=STREAM | last | self._headers[job.client]) as answer:
                    self.figures.answers[answer.status_code] += 1
                    if answer.status_code == 200:
                        await self._take(view, answer, hops.pop(0) if hops else None)
                    elif answer.status_code == 204:
                        view.ended = True
                    elif not await self._may_come_again(answer, chance):
                        return
            except httpx.HTTPError:
                self.figures.unreachable += 1
                await asyncio.sleep(chance.uniform(0.05, 0.2))

    async def _take(self, view: View, answer: httpx.Response, most: int | None) -> None:
        """Reads a connection until it ends, or until `most` events."""
        self.figures.streams += 1
        view.connections += 1
        async for name, id, data in frames(answer):
            if name == "error":
                self.figures.errors_told[str(data.get("code") or data.get("error", {}).get("code"))] += 1
            if id is None:
                continue
            view.events.append(Event(id, name, data))
            if name in TERMINAL:
                view.ended = True
                return
            if most is not None and (most := most - 1) <= 0:
                return

    async def _asked(
        self, method: str, path: str, job: Job, chance: random.Random, *, expected: int = 200, **more: Any
    ) -> httpx.Response:
        """Returns the first final response; repeats after connection errors, 429, 503 and other server errors."""
        headers = self._headers[job.client] | more.pop("headers", {})
        while True:
            try:
                answer = await self._http.request(method, self._replica(chance) + path, headers=headers, **more)
            except httpx.HTTPError:
                self.figures.unreachable += 1
                await asyncio.sleep(chance.uniform(0.05, 0.2))
                continue
            status = answer.status_code
            self.figures.answers[status] += 1
            if status < 400 or status == expected or not await self._may_come_again(answer, chance):
                return answer

    async def _may_come_again(self, answer: httpx.Response, chance: random.Random) -> bool:
        if answer.status_code in (429, 503):
            if not answer.headers.get("Retry-After", "").isdecimal():
                self._complain(f"{answer.request.url.path}: {answer.status_code} without Retry-After")
            await asyncio.sleep(chance.uniform(0.1, 0.4))  # shorter than Retry-After: the test saves time
            return True
        await answer.aread()
        where = f"{answer.request.method} {answer.request.url.path}"
        self._complain(f"{where}: {answer.status_code} {answer.text[:200]}")
        if answer.status_code >= 500:
            await asyncio.sleep(chance.uniform(0.1, 0.4))
        return answer.status_code >= 500

    def _accepted(self, job: Job, id: str) -> None:
        self._history.accepted.setdefault(job.key, []).append(id)

    def _complain(self, text: str) -> None:
        self._history.complaints.append(text)

    def _replica(self, chance: random.Random) -> str:
        return chance.choice(self._replicas)


class Refused(Exception):
    """A valid request was rejected for good."""


async def frames(answer: httpx.Response) -> AsyncIterator[tuple[str, str | None, dict[str, Any]]]:
    """Yields server-sent events: name, id and data. Drops an event that the end of the connection cut off."""
    name, id, data = "message", None, ""
    async for line in answer.aiter_lines():
        field_name, _, value = line.partition(": ")
        match field_name:
            case "":
                if data:
                    yield name, id, json.loads(data)
                name, id, data = "message", None, ""
            case "event":
                name = value
            case "id":
                id = value
            case "data":
                data += value

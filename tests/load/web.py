"""A customer's HTTP client: honours Retry-After, and checks that streams keep their promises."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import httpx

from tests.load.record import Record

TERMINAL = frozenset({"completed", "failed", "canceled"})
PATIENCE = httpx.Timeout(30.0, read=900.0, pool=None)
_ID = re.compile(r"(\d+)-(\d+)")


class Refused(Exception):
    """The response broke a promise; the record has it."""


class Web:
    """Sends one customer's requests with its client's key, and records every response."""

    def __init__(
        self, http: httpx.AsyncClient, client: str, customer: str, key: str, record: Record, random: Random
    ) -> None:
        self.client = client
        self.customer = customer
        self.record = record
        self.random = random
        self._http = http
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def send(
        self,
        what: str,
        method: str,
        path: str,
        *,
        expected: Collection[int] = (200, 202),
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> httpx.Response:
        """Returns a response with one of the expected statuses. Raises Refused."""
        async with self.open(what, method, path, expected=expected, headers=headers, **body) as response:
            await response.aread()
            return response

    def accepted(self, job: str, task: str) -> None:
        self.record.accepted(job, self.client, task, self.customer)

    @asynccontextmanager
    async def open(
        self,
        what: str,
        method: str,
        path: str,
        *,
        expected: Collection[int] = (200, 202),
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> AsyncIterator[httpx.Response]:
        """Like send, but the body is still to be read. Raises Refused."""
        headers = {**self._headers, **(headers or {})}
        while True:
            try:
                async with self._http.stream(method, path, headers=headers, **body) as response:
                    self.record.answers[what, response.status_code] += 1
                    if response.status_code in expected:
                        yield response
                        return
                    pause = await self._pause(what, response)
            except httpx.HTTPError as error:
                self.record.fails(f"{what}: {type(error).__name__}", f"{method} {path}: {error}")
                raise Refused from None
            await asyncio.sleep(pause * (1 + 0.25 * self.random.random()))

    async def _pause(self, what: str, response: httpx.Response) -> float:
        """Returns seconds until the next try. Raises Refused for a final error."""
        said = response.headers.get("retry-after", "")
        if response.status_code in (429, 503) and said.isdigit():
            return float(said)
        text = (await response.aread()).decode(errors="replace")
        self.record.fails(f"{what}: {response.status_code}", text)
        raise Refused

    async def follow(
        self,
        what: str,
        job: str | None,
        *,
        cuts: int = 0,
        pause: float = 0.0,
        post: Mapping[str, Any] | None = None,
        task: str = "",
    ) -> str:
        """Reads a job's events to the end. Returns the job's id.

        cuts: how often to disconnect and resume. pause: seconds between reads, for a slow reader. post: the request
        that makes the job, if its response is the stream. Raises Refused if the stream breaks a promise.
        """
        reader = Reader()
        while not reader.ended:
            if job is None:
                assert post is not None
                opened = self.open(what, **{**post, "headers": {**post["headers"], "Accept": "text/event-stream"}})
            else:
                headers = {"Last-Event-ID": reader.last} if reader.last else {}
                opened = self.open(what, "GET", f"/v1/jobs/{job}/events", expected=(200, 204), headers=headers)
            async with opened as response:
                if response.status_code == 204:
                    break
                if job is None:
                    job = response.headers["x-job-id"]
                    self.accepted(job, task)
                # Disconnect after 0 to 11 events.
                cut_after = self.random.randrange(12) if cuts > 0 else None
                cuts -= 1
                async for chunk in response.aiter_raw(4096 if pause else None):
                    reader.feed(chunk)
                    if pause and not reader.ended:
                        await asyncio.sleep(pause)
                    if cut_after is not None and reader.events >= cut_after and not reader.ended:
                        self.record.streams["cut by the reader"] += 1
                        reader.hang_up()
                        break
                else:
                    self.record.streams[reader.leave()] += 1
            if reader.wrong:
                self.record.fails(f"{what}: {reader.wrong}", f"job {job}, last event {reader.last}")
                raise Refused
        assert job is not None
        if reader.terminals != 1:
            self.record.fails(f"{what}: {reader.terminals} terminal events", f"job {job}, last event {reader.last}")
            raise Refused
        self.record.streams["ended with one terminal event"] += 1
        return job


class Reader:
    """Checks a stream over all its connections."""

    def __init__(self) -> None:
        self.last = ""
        self.events = 0  # in this connection
        self.terminals = 0
        self.wrong = ""
        self._before = (-1, -1)
        self._rest = b""
        self._said = ""

    @property
    def ended(self) -> bool:
        return self.terminals > 0 or bool(self.wrong)

    def feed(self, chunk: bytes) -> None:
        *frames, self._rest = (self._rest + chunk).split(b"\n\n")
        for frame in frames:
            self._event(frame)

    def hang_up(self) -> None:
        """Forgets the connection, and an event that it cut off."""
        self._said, self._rest, self.events = "", b"", 0

    def leave(self) -> str:
        """Called when the service closes the connection. Returns how it closed."""
        said = self._said
        self.hang_up()
        if self.terminals:
            return "closed after the end"
        if said not in ("reconnect", "error"):
            # The service must announce a disconnection, so that the reader can resume.
            self.wrong = "a stream ended without an announcement"
        return f"closed by the server: {said or 'without an announcement'}"

    def _event(self, frame: bytes) -> None:
        name, id = "", ""
        for line in frame.split(b"\n"):
            if line.startswith(b"event:"):
                name = line[6:].strip().decode()
            elif line.startswith(b"id:"):
                id = line[3:].strip().decode()
        self.events += 1
        self._said = name
        if id:
            found = _ID.fullmatch(id)
            now = (int(found[1]), int(found[2])) if found else (-1, -1)
            if now <= self._before:
                self.wrong = "an event out of order"
            self._before, self.last = now, id
        if self.terminals and name != "heartbeat":
            self.wrong = "an event after the end"
        self.terminals += name in TERMINAL

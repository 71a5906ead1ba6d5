"""The state of a job's event stream over all its connections, without I/O: what to send, what came, when to go on."""

from __future__ import annotations

import json

from service.client.calls import Call, JobOrId, job_path
from service.client.errors import APIConnectionError, APIError, from_problem
from service.client.events import LAST, Event, event_of
from service.client.retries import Retries

READ_SECONDS = 60.0
"""A stream without a byte for so long is lost: the server sends a heartbeat every ten seconds, unless it is set to
another time."""


class Stream:
    """Follows one job. For each connection: send `call`, then call `opened` with the status, `receive` with each piece
    of the body and `closed` at the end; until `ended`."""

    def __init__(self, job: JobOrId, after: str | None, most_retries: int) -> None:
        self._path = f"{job_path(job)}/events"
        self._after = after
        self._retries = Retries(most_retries)
        self._buffer = b""
        self._lost: APIError | None = None
        self._asked_to_reconnect = False
        self.ended = False

    @property
    def call(self) -> Call:
        headers = {"Accept": "text/event-stream"} | ({} if self._after is None else {"Last-Event-ID": self._after})
        return Call("GET", self._path, headers=headers)

    def opened(self, status: int) -> None:
        self._buffer, self._lost, self._asked_to_reconnect = b"", None, False
        self.ended = status == 204  # the job has ended, and the client has all its events

    def receive(self, piece: bytes) -> list[Event]:
        """Not by httpx's lines: they also end at characters that JSON may contain, such as U+2028."""
        *frames, self._buffer = (self._buffer + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        events = []
        for frame in frames:
            if (event := self._read(frame)) is not None:
                self._after = event.id
                self._retries.succeeded()
                self.ended = event.name in LAST
                events.append(event)
        return events

    def _read(self, frame: bytes) -> Event | None:
        told: dict[str, str] = {}
        for line in frame.decode(errors="replace").split("\n"):
            name, _, value = line.partition(":")
            told[name] = value.removeprefix(" ")
        try:
            name, data = told["event"], json.loads(told["data"])
            if name == "error":
                self._lost = from_problem(data, data["detail"], data["status"])
            elif name == "reconnect":
                self._asked_to_reconnect = True
            elif "id" in told:
                return event_of(told["id"], name, data)
        except (KeyError, ValueError, TypeError) as error:
            self._lost = APIConnectionError(f"the event stream can't be read ({error!r}); is this the API's?")
        return None

    def closed(self, error: APIError | None = None) -> float:
        """The seconds until the next connection. error: why the connection ended, or could not be made; None: the
        server ended it. Raises the error of a stream that can't be resumed."""
        if error is None and self._lost is None and self._asked_to_reconnect:
            return 0.0
        lost = error or self._lost or APIConnectionError("the event stream ended before its job")
        return self._retries.pause(lost)

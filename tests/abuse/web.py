"""HTTP over plain sockets: a connection for each request, so that the driver costs little and may break the rules."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PATIENCE = 60.0
"""Seconds that a client waits for an answer."""

CLOSED, LATE = "closed", "no answer"
BOUNDARY = "abuse-boundary"


@dataclass(frozen=True, slots=True)
class Answer:
    """outcome: the status, or CLOSED or LATE."""

    outcome: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Site:
    """A server, and the key that this client sends to it; empty: none."""

    url: str
    key: str = ""

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> Answer:
        given = {"Content-Length": str(len(body))} if body or method == "POST" else {}
        return await self.send(self.head(method, path, given | dict(headers or {})) + body, patience=patience)

    async def post(self, path: str, fields: Any, *, accept: str = "application/json") -> Answer:
        """fields: for JSON."""
        headers = {"Content-Type": "application/json", "Accept": accept}
        return await self.ask("POST", path, body=json.dumps(fields).encode(), headers=headers)

    async def send(self, raw: bytes, *, patience: float = PATIENCE) -> Answer:
        """These bytes as they are. Reads until the server closes the connection."""
        try:
            async with asyncio.timeout(patience):
                reader, writer = await self.connect()
                try:
                    with contextlib.suppress(ConnectionError):  # an answer may come before the body is read
                        writer.write(raw)
                        await writer.drain()
                    return _parsed(await _all(reader))
                finally:
                    writer.transport.abort()
        except TimeoutError:
            return Answer(LATE)
        except OSError:
            return Answer(CLOSED)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.url)
        return await asyncio.open_connection(parts.hostname, parts.port, limit=2**20)

    def head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {urlsplit(self.url).netloc}", "Connection: close"]
        if self.key:
            lines.append(f"Authorization: Bearer {self.key}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()


def form(parts: Iterable[tuple[str, bytes]], *, charset: str = "") -> tuple[dict[str, str], bytes]:
    """Headers and body of a multipart form. `image` and `mask` are files."""
    body = b""
    for name, value in parts:
        file = f'; filename="{name}"' if name in ("image", "mask") else ""
        disposition = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += disposition.encode("latin-1") + value + b"\r\n"
    kind = f"multipart/form-data; boundary={BOUNDARY}" + (f"; charset={charset}" if charset else "")
    return {"Content-Type": kind}, body + f"--{BOUNDARY}--\r\n".encode()


async def _all(reader: asyncio.StreamReader) -> bytes:
    pieces = []
    with contextlib.suppress(ConnectionError):  # the server closes a connection whose body it has not read
        while piece := await reader.read(2**20):
            pieces.append(piece)
    return b"".join(pieces)


def _parsed(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    if not first.startswith("HTTP/1.1 "):
        return Answer(CLOSED)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(first.split(" ")[1], headers, body)

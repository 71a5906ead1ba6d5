"""A TCP proxy in front of Valkey that drops replies: the command takes effect, but its reply is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

VERB = b"EVALSHA"


class Side(asyncio.Protocol):
    """One of the two connections of a client."""

    def __init__(
        self, received: Callable[[bytes], None], ended: Callable[[], None], made: Callable[[], None] = lambda: None
    ) -> None:
        self.transport: Any = None
        self.pending: list[bytes] = []  # data that arrived before the other side connected
        self._received = received
        self._ended = ended
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._made()

    def data_received(self, data: bytes) -> None:
        self._received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()


class Proxy:
    """Forwards a TCP port to the server's Unix socket.

    armed, lost: shared counters of replies to verbs that are to be dropped, and that were dropped.
    """

    def __init__(self, server: str, armed: Any, lost: Any) -> None:
        self._server = server
        self._armed = armed
        self._lost = lost
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> tuple[asyncio.Server, int]:
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(self._client, "127.0.0.1", 0)
        return listening, listening.sockets[0].getsockname()[1]

    def _client(self) -> Side:
        asked = bytearray()  # the first bytes since the last reply
        client: Side
        server: Side | None = None

        def cut() -> None:
            for side in (client, server):
                if side is not None and side.transport is not None:
                    side.transport.abort()

        def from_client(data: bytes) -> None:
            if len(asked) < 64:
                asked.extend(data[:64])
            if server is None:
                client.pending.append(data)
            else:
                server.transport.write(data)

        def from_server(data: bytes) -> None:
            verb = VERB in asked
            asked.clear()
            if verb and self._armed.value > 0:
                with self._armed.get_lock():
                    self._armed.value -= 1
                self._lost.value += 1
                cut()
            else:
                client.transport.write(data)

        async def connect() -> None:
            nonlocal server
            try:
                loop = asyncio.get_running_loop()
                _, made = await loop.create_unix_connection(lambda: Side(from_server, cut), self._server)
            except OSError:
                cut()
                return
            server = made
            server.transport.writelines(client.pending)
            if client.transport.is_closing():
                cut()

        def begin() -> None:
            # The client's side must exist first: it is cut at once if the server is down.
            task = asyncio.create_task(connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        client = Side(from_client, cut, begin)
        return client

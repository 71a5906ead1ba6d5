"""A connection that Redis closed while nobody used it troubles no call: it is opened again."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError

from service.jobs import connect
from service.server.embedded import EmbeddedServer

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def tcp_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on TCP: redis-py treats idle connections to a Unix socket otherwise."""
    with EmbeddedServer(tmp_path_factory.mktemp("valkey"), tcp=True) as url:
        yield url


@pytest.mark.parametrize("where", ["tcp", "unix"])
async def test_an_idle_connection_that_the_server_closed_is_opened_again(
    where: str, tcp_url: str, redis_url: str
) -> None:
    url = tcp_url if where == "tcp" else redis_url
    client, killer = connect(url, retries=0), connect(url)
    for _ in range(4):
        assert await client.ping()
        await killer.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await client.aclose()
    await killer.aclose()


class Relay:
    """Stands between a client and the server, and can reset the client's connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._clients: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        self._clients.append(writer)
        self._tasks += [
            asyncio.create_task(forward(reader, to_server)),
            asyncio.create_task(forward(from_server, writer)),
        ]

    async def reset(self) -> None:
        """Returns when the clients' side has seen the reset."""
        while self._clients:
            writer = self._clients.pop()
            linger = struct.pack("ii", 1, 0)  # no data is sent any more, and the peer gets RST instead of FIN
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        await asyncio.sleep(0.05)

    async def close(self) -> None:
        await self.reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**16):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def relayed(url: str) -> AsyncIterator[tuple[str, Relay]]:
    head, _, tail = url.rpartition(":")
    port, _, database = tail.partition("/")
    relay = Relay(int(port))
    server = await asyncio.start_server(relay.accept, "127.0.0.1", 0)
    yield f"{head}:{server.sockets[0].getsockname()[1]}/{database}", relay
    server.close()
    await relay.close()


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_reset_of_an_idle_connection_is_no_error(blocking: bool, tcp_url: str) -> None:
    async with relayed(tcp_url) as (url, relay):
        client = connect(url, blocking=blocking, retries=0)
        for number in range(4):
            async with client.pipeline() as pipe:
                pipe.set("number", number)
                pipe.get("number")
                assert (await pipe.execute())[1] == b"%d" % number
            await relay.reset()
            assert await client.ping()
            await relay.reset()
        await client.aclose()


async def test_a_reset_between_two_commands_is_a_lost_connection(tcp_url: str) -> None:
    """CPython 3.12 to 3.14.0 raise TypeError or AttributeError here, which would not be retried."""
    async with relayed(tcp_url) as (url, relay):
        client = connect(url)
        connection: AbstractConnection = await client.connection_pool.get_connection()
        await relay.reset()
        with pytest.raises(ConnectionError, match="closed the connection while it was idle"):
            await connection.send_command("PING")
        await connection.send_command("PING")  # it opens itself again
        assert await connection.read_response() == b"PONG"
        await client.connection_pool.release(connection)
        await client.aclose()

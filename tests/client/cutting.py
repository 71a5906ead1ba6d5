"""A TCP proxy that cuts connections: a client receives so many bytes of an answer, then its connection ends."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence


class CuttingProxy:
    """cuts: for each connection in turn, how many bytes it brings before it is cut; later ones are whole. address: of
    the server behind it. made: how many connections were made."""

    def __init__(self, address: tuple[str, int], cuts: Sequence[int]) -> None:
        self._address, self._cuts = address, list(cuts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.made = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def lead_to(self, url: str) -> None:
        """New connections reach the server at this URL."""
        self._address = _address(url)

    def close(self) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                most = self._cuts[self.made] if self.made < len(self._cuts) else None
                self.made += 1
                server = socket.create_connection(self._address)
                self._open |= {client, server}
                for source, target, limit in ((client, server, None), (server, client, most)):
                    threading.Thread(target=self._forward, args=(source, target, limit), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        with contextlib.suppress(OSError):
            while limit is None or limit > 0:
                data = source.recv(65536)
                if not data:
                    break
                target.sendall(data if limit is None else data[:limit])
                limit = None if limit is None else limit - len(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def cutting(url: str, *cuts: int) -> Iterator[CuttingProxy]:
    """In front of the server at this URL."""
    proxy = CuttingProxy(_address(url), cuts)
    try:
        yield proxy
    finally:
        proxy.close()


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)

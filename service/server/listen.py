"""The listening socket, bound before anything else starts: a port in use is a clear error at once."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator

BACKLOG = 1024


class CannotListen(Exception):
    """There is no such address here, or it is not ours to listen at."""


class PortInUse(CannotListen):
    """Another process listens there."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address that a server listens at."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


@contextlib.contextmanager
def port_errors(host: str, port: int, setting: str) -> Iterator[None]:
    """Around what binds a port. Raises CannotListen, which names the port; setting: what moves it."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} is in use: stop what listens there, or set {setting} to another") from None
        raise CannotListen(f"can't listen at {host}, port {port}: {error.strerror}") from None
    except UnicodeError:
        raise CannotListen(f"can't listen at {host!r}: that is no host's name") from None


def listen(host: str, port: int, *, stalled: float | None = None, setting: str = "PORT") -> socket.socket:
    """A TCP socket that takes connections, which wait until they are served; port 0 takes a free one. stalled: seconds
    after which a peer that takes nothing of what is sent to it is cut off, where the system can. setting: what moves
    the port."""
    with port_errors(host, port, setting):
        [(family, kind, _, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # With the protocol named: asyncio sets TCP_NODELAY only on such a socket, and without it every response
    # waits some 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if stalled is not None and hasattr(socket, "TCP_USER_TIMEOUT"):  # what is accepted inherits it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(stalled * 1000))
    try:
        with port_errors(host, port, setting):
            listener.bind(address)
            listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener

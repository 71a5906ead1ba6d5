"""The listening socket. It is bound before anything else starts, so that a port in use is reported at once."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator

BACKLOG = 1024


class CannotListen(Exception):
    """This machine has no such address, or this process may not listen at it."""


class PortInUse(CannotListen):
    """Another process listens at this port."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address that a server listens at."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


@contextlib.contextmanager
def port_errors(host: str, port: int, setting: str) -> Iterator[None]:
    """Turns the errors of binding a port into CannotListen. setting: the variable that changes the port."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} is in use: stop the process that listens there, or set {setting} to another port"
            ) from None
        raise CannotListen(f"can't listen at {host}, port {port}: {error.strerror}") from None
    except UnicodeError:
        raise CannotListen(f"can't listen at {host!r}: this is not a host name") from None


def listen(host: str, port: int, *, stalled: float | None = None, setting: str = "PORT") -> socket.socket:
    """A listening TCP socket; connections wait in its backlog until a server accepts them. port: 0 takes a free one.
    stalled: seconds after which a peer that stops reading is dropped, on Linux. setting: the variable that changes the
    port."""
    with port_errors(host, port, setting):
        [(family, kind, _, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # The protocol must be named: asyncio sets TCP_NODELAY only on such a socket, and without it every response waits
    # 40 ms or so for the client's delayed acknowledgement.
    listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if stalled is not None and hasattr(socket, "TCP_USER_TIMEOUT"):  # accepted sockets inherit it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(stalled * 1000))
    try:
        with port_errors(host, port, setting):
            listener.bind(address)
            listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener

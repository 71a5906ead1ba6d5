"""An arpg server that runs here already: the one that answers at the port, and the one that uses the data folder."""

from __future__ import annotations

import fcntl
import ipaddress
import json
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from service.settings import Settings

PATIENCE = 3.0
"""Seconds that it may take to answer: it waits two of them for its Redis."""


def at_port(settings: Settings) -> str | None:
    """Whether the arpg server at the port is ready, and if not, why. None: no arpg server answers there."""
    with closing(HTTPConnection(_reached_at(settings.host), settings.port, timeout=PATIENCE)) as connection:
        try:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            told = json.loads(response.read(2**16))
        except (OSError, HTTPException, ValueError):
            return None
    if not isinstance(told, dict) or response.headers["X-Request-Id"] is None:
        return None
    if told.get("status") == "ready":
        return "it is ready"
    reasons = told.get("reasons")
    return f"it is not ready: {', '.join(map(str, reasons))}" if isinstance(reasons, list) else None


def in_folder(directory: Path) -> tuple[bool, int | None]:
    """Whether an `arpg serve` runs its Redis in this folder, and the port of its page, which it tells once it runs."""
    try:
        with (directory / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False, None
    except BlockingIOError:
        pass
    except OSError:  # none ever ran there
        return False, None
    with suppress(OSError, ValueError):
        told = json.loads((directory / "server.json").read_text())
        return True, told.get("http_port")
    return True, None


def _reached_at(host: str) -> str:
    """Where a server that listens at this address is reached from the same machine."""
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            return "127.0.0.1" if address.version == 4 else "::1"
    return host

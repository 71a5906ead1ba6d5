"""The hosts that webhooks may call: only those that the operator lists, and no private address that the list lacks.

A name is resolved once for each call, and the call connects to the address that was checked: a name that resolves to
another address later can't reach it (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from httpx import URL

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_LETTERS = 2000
PORTS = {"https": 443, "http": 80}

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAME = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


class HostNotAllowed(ValueError):
    """The message says why, and what would be right."""


@dataclass(frozen=True, slots=True)
class _Origin:
    scheme: str
    host: str  # in lower case; `*.` in front: any name below it
    port: int

    def covers(self, url: URL) -> bool:
        if (url.scheme, _port(url)) != (self.scheme, self.port):
            return False
        name = url.host.lower().rstrip(".")
        return name.endswith(self.host[1:]) if self.host.startswith("*.") else name == self.host


class WebhookHosts:
    """entries: `hooks.example.com` (https, port 443), `*.example.com`, `http://10.0.0.5:9000`, or a network such as
    `10.0.0.0/8`, whose private addresses the listed names may then resolve to. Raises ValueError."""

    def __init__(self, entries: Iterable[str]) -> None:
        origins: list[_Origin] = []
        networks: list[Network] = []
        for entry in entries:
            network = _network(entry)
            if network is not None and "/" in entry:
                networks.append(network)
                continue
            origins.append(_origin(entry))
            if (named := _network(origins[-1].host)) is not None:
                networks.append(named)
        self._origins = tuple(origins)
        self._networks = tuple(networks)

    def __bool__(self) -> bool:
        return bool(self._origins)

    def checked(self, text: str) -> URL:
        """The URL, if webhooks may call it. Raises HostNotAllowed."""
        from httpx import URL, InvalidURL  # it takes a tenth of a second, and most servers have no webhooks

        try:
            url = URL(text)
        except InvalidURL as error:
            raise HostNotAllowed(f"is no URL ({error}); send one such as https://hooks.example.com/arpg") from None
        if len(text) > MOST_LETTERS or not text.isascii() or not text.isprintable():
            raise HostNotAllowed(f"may have {MOST_LETTERS} printable ASCII characters; percent-encode others")
        if url.scheme not in PORTS or not url.host:
            raise HostNotAllowed("must be an absolute URL such as https://hooks.example.com/arpg")
        if url.userinfo or url.fragment:
            raise HostNotAllowed("may have no user, password or fragment; put a token into the path or the query")
        if not any(origin.covers(url) for origin in self._origins):
            raise HostNotAllowed(
                f"{url.scheme}://{url.host}:{_port(url)} is not among the hosts that this server calls; "
                "its operator lists them in ARPG_WEBHOOK_HOSTS"
            )
        return url

    def may_connect(self, address: str) -> bool:
        """Whether an address that a listed name resolved to may be called: a public one, or one that is listed."""
        found = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
        if any(found.version == network.version and found in network for network in self._networks):
            return True
        return found.is_global and not found.is_multicast


def _origin(entry: str) -> _Origin:
    scheme, slashes, rest = entry.strip().lower().rpartition("://")
    scheme = scheme if slashes else "https"
    host, port = rest, ""
    if match := re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d{1,5}))?", rest):
        host, port = match[1].strip("[]"), match[2] or ""
    if scheme not in PORTS or not (_NAME.fullmatch(host) or _network(host)) or int(port or 1) not in range(1, 65536):
        raise ValueError(f"{entry!r} is no host: write name, *.name, name:port, http://name:port or 10.0.0.0/8")
    return _Origin(scheme, host, int(port or PORTS[scheme]))


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _port(url: URL) -> int:
    return url.port or PORTS.get(url.scheme, 0)


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it stands for one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address

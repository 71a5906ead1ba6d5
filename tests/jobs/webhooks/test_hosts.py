"""Webhooks call only the hosts that the operator lists, and no private address that the list lacks."""

from __future__ import annotations

import pytest

from service.jobs.webhooks.hosts import HostNotAllowed, WebhookHosts
from service.settings import Settings

HOSTS = WebhookHosts(
    [
        "hooks.example.com",
        "*.example.org",
        "http://127.0.0.1:9000",
        "https://[::1]:8443",
        "inner.test:444",
        "10.0.0.0/8",
    ]
)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/a?token=b",
        "https://HOOKS.example.com:443/",
        "https://hooks.example.com./a",
        "https://a.b.example.org/x",
        "http://127.0.0.1:9000/x",
        "https://[::1]:8443/x",
        "https://inner.test:444",
    ],
)
def test_a_listed_origin_may_be_called(url: str) -> None:
    assert HOSTS.checked(url).host


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",  # https unless the list says http
        "https://hooks.example.com:444/",
        "https://example.org/",
        "https://evilexample.org/",
        "https://hooks.example.com.evil.test/",
        "https://evil.test/hooks.example.com",
        "https://evil.test#.example.org",
        "https://hooks.example.com@evil.test/",
        "https://user:password@hooks.example.com/",
        "https://hooks.example.com/#fragment",
        "https://evil.test\\@hooks.example.com/",
        "http://127.0.0.1:9001/",
        "http://127.1:9000/",
        "http://2130706433:9000/",
        "http://localhost:9000/",
        "https://10.0.0.5/",  # a network names no host
        "ftp://hooks.example.com/",
        "//hooks.example.com/",
        "hooks.example.com",
        "https:///x",
        "https://hooks.example.com/\u00e9",
        "https://hooks.example.com/" + "x" * 2000,
        "https://[::1",
        "",
    ],
)
def test_anything_else_is_refused_with_a_reason(url: str) -> None:
    with pytest.raises(HostNotAllowed) as refused:
        HOSTS.checked(url)
    assert len(str(refused.value)) > 20


def test_a_refusal_names_the_remedy() -> None:
    with pytest.raises(HostNotAllowed, match=r"evil.test:443 is not among .* ARPG_WEBHOOK_HOSTS"):
        HOSTS.checked("https://evil.test/")


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1::1", "10.1.2.3", "127.0.0.1", "::1", "::ffff:10.0.0.1"]
)
def test_public_and_listed_addresses_may_be_connected_to(address: str) -> None:
    assert HOSTS.may_connect(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.2", "169.254.169.254", "192.168.1.1", "172.16.0.1", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255",
        "fe80::1%eth0", "fc00::1", "::", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "ff02::1",
        "198.18.0.1",
    ],
)  # fmt: skip
def test_other_private_addresses_may_not(address: str) -> None:
    assert not HOSTS.may_connect(address)


@pytest.mark.parametrize(
    "entry", ["", "ftp://a.test", "a.test:99999", "a.test/path", "http://", "a b", "*", "10.0.0.0/99"]
)
def test_a_setting_that_names_no_host_is_refused_at_the_start(entry: str) -> None:
    with pytest.raises(ValueError, match="no host"):
        WebhookHosts([entry])


def test_the_setting_is_a_list_and_checked() -> None:
    assert Settings(webhook_hosts="a.test, *.b.test", _env_file=None).webhook_hosts == ("a.test", "*.b.test")
    with pytest.raises(ValueError, match="webhook_hosts"):
        Settings(webhook_hosts="a.test,ftp://b.test", _env_file=None)
    assert not WebhookHosts(())

"""A part of `make abuse` against a small model: attacks are refused, and the other client is served meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from service.auth import key_store, keys
from tests.abuse.attacks.attack import Target
from tests.abuse.builders import noise_png
from tests.abuse.bystander import Bystander
from tests.abuse.run import ATTACKS
from tests.abuse.web import Site
from tests.support.serve import Server, serving
from tests.support.tiny import random_folder

SCALE = 0.02
SECONDS = 0.3
"""Of one attack."""


class Keyed:
    """A server that needs keys, with two of them."""

    def __init__(self, server: Server, hostile: str, ordinary: str) -> None:
        url = str(server.client.base_url).rstrip("/")
        self.target = Target(Site(url, hostile), server.data, SECONDS, SCALE)
        self.ordinary = Site(url, ordinary)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    data, texts = tmp_path_factory.mktemp("data"), []
    for name in ("hostile", "ordinary"):
        text, key = keys.make(name)
        key_store.add(data / "keys.jsonl", key)
        texts.append(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARPG_DTYPE", "bfloat16")  # nothing is compiled for it, which takes ten seconds
        with serving(data, random_folder(tmp_path_factory.mktemp("model"))) as server:
            yield Keyed(server, *texts)


@pytest.mark.parametrize("number", [1, 2, 5, 12, 14])
def test_an_attack_is_refused_and_others_are_served(keyed: Keyed, number: int) -> None:
    attack, other, stop = ATTACKS[number], Bystander(keyed.ordinary, noise_png(16, 16)), asyncio.Event()

    async def attacked() -> list[str]:
        watching = asyncio.ensure_future(other.run(stop))
        told = await attack.strike(keyed.target, attack.prepare(keyed.target))
        stop.set()
        await watching
        return told.broken

    assert asyncio.run(attacked()) == []
    for seen in (other.health, other.pictures, other.uploads):
        assert set(seen.outcomes) == {"200"}

"""Pictures that wait together are decoded together, before sources and previews; one that fails fails alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest

from engine.codec.codec import Codec
from service.worker.threads.codec_thread import CodecThread

pytestmark = pytest.mark.anyio


class FakeCodec:
    """Its pictures are its tokens. Begins to decode when it may. Has memory for `room` pictures at once."""

    together = 3

    def __init__(self) -> None:
        self.may_begin = threading.Event()
        self.calls: list[list[int]] = []
        self.room = 3

    def decode_many(self, tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        assert self.may_begin.wait(10)
        self.calls.append([int(one.flat[0]) for one in tokens])
        if len(tokens) > self.room or any(one.flat[0] < 0 for one in tokens):
            raise MemoryError
        return list(tokens)


def tokens(number: int, rows: int = 2) -> np.ndarray:
    return np.full((rows, 2), number)


def first(picture: np.ndarray) -> int:
    return int(picture.flat[0])


@pytest.fixture
def codec() -> FakeCodec:
    return FakeCodec()


@pytest.fixture(params=[0, 2])
def thread(request: pytest.FixtureRequest, codec: FakeCodec) -> Iterator[CodecThread]:
    thread = CodecThread(coders=request.param)
    thread.start()
    yield thread
    codec.may_begin.set()
    thread.close()


@pytest.fixture
def draw(thread: CodecThread, codec: FakeCodec) -> Callable[..., asyncio.Future[Any]]:
    """Hands over a token map."""
    return lambda *map, client="a": asyncio.ensure_future(
        thread.picture(client, cast(Codec, codec), tokens(*map), first)
    )


async def test_pictures_of_one_size_are_decoded_together(
    codec: FakeCodec, draw: Callable[..., asyncio.Future[Any]]
) -> None:
    """The first begins at once; at most three together; another size goes apart."""
    drawn = [draw(0)]
    await asyncio.sleep(0.05)
    drawn += [draw(1), draw(2), draw(3, 4), draw(4), draw(5)]
    await asyncio.sleep(0)
    codec.may_begin.set()
    assert await asyncio.gather(*drawn) == [0, 1, 2, 3, 4, 5]
    assert codec.calls == [[0], [1, 2, 4], [3], [5]]


async def test_sources_wait_for_finished_pictures_and_previews_for_everything(
    thread: CodecThread, codec: FakeCodec, draw: Callable[..., asyncio.Future[Any]]
) -> None:
    order: list[str] = []
    drawn = [draw(0)]
    await asyncio.sleep(0.05)
    for kind in ("preview", "source", "finished"):
        drawn += [asyncio.ensure_future(thread.call(kind, "a", order.append, kind))]
    await asyncio.sleep(0)
    assert thread.busy
    codec.may_begin.set()
    await asyncio.gather(*drawn)
    assert order == ["finished", "source", "preview"]
    await asyncio.sleep(0.05)
    assert not thread.busy


async def test_pictures_that_fail_together_are_decoded_apart(
    codec: FakeCodec, draw: Callable[..., asyncio.Future[Any]]
) -> None:
    drawn = [draw(0)]
    await asyncio.sleep(0.05)
    drawn += [draw(1), draw(-2), draw(3)]
    await asyncio.sleep(0)
    codec.may_begin.set()
    ended = await asyncio.gather(*drawn, return_exceptions=True)
    assert [type(one) for one in ended] == [int, int, MemoryError, int]
    assert codec.calls == [[0], [1, -2, 3], [1], [-2], [3]]


async def test_cancelled_work_is_not_done(codec: FakeCodec, draw: Callable[..., asyncio.Future[Any]]) -> None:
    drawn = [draw(0), draw(1), draw(2)]
    await asyncio.sleep(0.05)
    drawn[2].cancel()
    await asyncio.sleep(0)
    codec.may_begin.set()
    await asyncio.gather(*drawn[:2])
    assert 2 not in [number for call in codec.calls[1:] for number in call]


async def test_a_client_has_a_turn_before_others_have_a_second(
    codec: FakeCodec, draw: Callable[..., asyncio.Future[Any]]
) -> None:
    drawn = [draw(0)]
    await asyncio.sleep(0.05)
    drawn += [draw(number, 30 + number, client="hostile") for number in range(1, 9)]  # no two can be decoded together
    drawn += [draw(20, 20, client="other"), draw(2, client="other")]
    await asyncio.sleep(0)
    codec.may_begin.set()
    await asyncio.gather(*drawn)
    assert [call[0] for call in codec.calls[:5]] == [0, 1, 20, 2, 2]

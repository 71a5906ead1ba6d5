"""Large pictures of one client take neither the worker's memory nor other clients' turns."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from engine.core.engine import Engine
from service.tasks import drawing
from service.worker import execution, model_worker, picture_files
from service.worker.threads.large_pictures import BYTES_PER_PIXEL, LargePictures
from service.worker.threads.picture_queue import PATIENCE, Kind, PictureQueue
from tests.support.waiting import soon
from tests.support.worker import pixels, png, serving

SIDE = 64  # pixels of the large pictures
SMALL = 16 * 16


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    opened = threading.Event()
    yield opened
    opened.set()


def order(works: list[tuple[Kind, str]]) -> list[tuple[Kind, str]]:
    queue: PictureQueue[tuple[Kind, str]] = PictureQueue()
    for kind, client in works:
        queue.put(kind, client, (kind, client))
    taken = []
    while queue:
        peeked = queue.peek()
        taken.append(queue.take())
        assert taken[-1] == peeked
    return taken


def test_finished_pictures_go_first_then_sources_then_previews_and_clients_in_turn() -> None:
    works: list[tuple[Kind, str]] = [("preview", "a"), ("source", "a"), ("source", "a"), ("source", "b")]
    works += [("finished", "a"), ("finished", "a"), ("finished", "b")]
    assert order(works) == [
        ("finished", "a"), ("finished", "b"), ("finished", "a"),
        ("source", "a"), ("source", "b"), ("source", "a"), ("preview", "a"),
    ]  # fmt: skip


def test_a_source_does_not_wait_for_ever_behind_finished_pictures() -> None:
    finished: list[tuple[Kind, str]] = [("finished", "b")] * 20
    taken = order([("source", "a"), *finished])
    assert taken.index(("source", "a")) == PATIENCE


@pytest.mark.anyio
async def test_turns_share_the_memory_and_a_picture_that_needs_more_is_alone() -> None:
    large, under_way = LargePictures(threads=3, memory=10 * BYTES_PER_PIXEL), list[int]()
    ends = {size: asyncio.Event() for size in (6, 5, 4, 99)}

    async def work(size: int) -> None:
        async with large.turn("finished", "a", size):
            under_way.append(size)
            await ends[size].wait()
            under_way.remove(size)

    tasks = [asyncio.create_task(work(size)) for size in (6, 5, 4, 99)]
    for ending, expected in ((6, [6]), (5, [5, 4]), (4, [4]), (99, [99])):
        assert await soon(partial(under_way.__eq__, expected)), under_way
        ends[ending].set()
    await asyncio.gather(*tasks)
    assert not large.busy


@pytest.mark.anyio
async def test_freed_memory_goes_back_before_a_picture_begins_and_when_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    monkeypatch.setattr("service.worker.threads.large_pictures.give_back_freed_memory", lambda: done.append("trim"))
    large = LargePictures(threads=1, memory=BYTES_PER_PIXEL)
    large.start()
    async with large.turn("finished", "a", 1) as turn:
        await turn.call(done.append, "picture")
    assert await soon(lambda: len(done) == 3)
    assert done == ["trim", "picture", "trim"]
    large.close()


@pytest.mark.anyio
async def test_a_turn_that_is_cancelled_lasts_until_its_thread_is_done(gate: threading.Event) -> None:
    large, begun = LargePictures(threads=1, memory=1), threading.Event()
    large.start()

    def block() -> None:
        begun.set()
        gate.wait(20)

    async def work() -> None:
        async with large.turn("source", "a", 10) as turn:
            await turn.call(block)

    async def next_one() -> bool:
        async with large.turn("source", "b", 10):
            return gate.is_set()

    first, unwanted, second = (asyncio.create_task(one) for one in (work(), work(), next_one()))
    await asyncio.to_thread(begun.wait, 20)
    for task in (first, unwanted):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await asyncio.sleep(0.05)
    assert not second.done()
    gate.set()
    assert await second
    large.close()


@pytest.mark.anyio
async def test_many_large_pictures_of_one_client_hold_up_no_other_and_take_no_memory(
    redis_url: str, engine: Engine, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_worker, "IDLE_WAIT", 1000)  # it claims as soon as it hears of a job
    for module in (picture_files, execution):
        monkeypatch.setattr(module, "LARGE", SMALL)
    opened: list[weakref.ref[np.ndarray]] = []
    most, finish, open_inputs = 0, drawing.finish, picture_files.open_inputs

    def counted(blobs: Any, **more: Any) -> Any:
        nonlocal most
        inputs = open_inputs(blobs, **more)
        if inputs.image is not None:
            opened.append(weakref.ref(inputs.image))
            most = max(most, sum(reference() is not None for reference in opened))
        return inputs

    def slow(spec: Any, *arguments: Any, **more: Any) -> Any:
        if spec.size == (SIDE, SIDE):
            gate.wait(60)
        return finish(spec, *arguments, **more)

    monkeypatch.setattr(picture_files, "open_inputs", counted)
    monkeypatch.setattr(drawing, "finish", slow)
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[8:40, 8:40] = True
    job_pixels = 2 * SIDE * SIDE  # the source's and the result's
    async with serving(redis_url, engine, grace=10, unstored_pixels=4 * job_pixels) as service:
        names = [f"h{number}" for number in range(8)]
        for name in names:
            await service.blobs.put(f"{name}/image", png(image))
            await service.blobs.put(f"{name}/mask", png(mask))
            files = {"image": f"{name}/image", "mask": f"{name}/mask"}
            await service.submit(name, client="hostile", task="inpaint", steps=2, seamless=False, **files)
        assert await soon(lambda: len(service.worker._models[0]._jobs) == 2)  # half of the pixels are one client's
        for number in range(3):
            await service.submit(f"other{number}", client="other", steps=2)
            assert await service.result(f"other{number}")
        assert await soon(lambda: len(service.worker._models[0]._jobs) == 2)  # the last of the others has left
        assert (await service.queue.stats())["random"].queued == 6
        gate.set()
        for name in names:
            [made] = (await service.result(name)).images
            shown = pixels(await service.blobs.get(made.blob))
            assert np.array_equal(shown[~mask], image[~mask])
            assert not np.array_equal(shown[mask], image[mask])
    assert most <= 2  # the one that is worked on; the last one may not have been freed

"""Uploads are read in processes that can be killed: within limits, each client in turn, and none is left behind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from service.tasks.pictures.errors import ImageError, Limits
from service.tasks.pictures.processes import pool as pools
from service.tasks.pictures.processes.fair_line import FairLine
from service.tasks.pictures.processes.pool import DecodePool, TooBusy
from service.tasks.pictures.reading import Reading, Upload, read_upload
from tests.support.api import half_mask, noise, png
from tests.support.processes import REPOSITORY
from tests.support.waiting import PATIENCE, eventually, soon
from tests.tasks.hostile import flat_png

LIMITS = Limits(max_pixels=2**24, max_side=8192)
FLAT = flat_png()
MASK = png(half_mask(8, 8))


def upload(image: bytes | str | None = None, mask: bytes | str | None = MASK, **fields: object) -> Upload:
    sent = {"image": image or png(noise(16, 16)), "mask": mask, "mask_mode": "white", "grid": (4, 4), "limits": LIMITS}
    return Upload(**sent | fields)  # type: ignore[arg-type]


@asynccontextmanager
async def running(
    processes: int = 1, seconds: float = 20.0, max_pixels: int = 2**24, max_bytes: int = 2**24
) -> AsyncIterator[DecodePool]:
    pool = DecodePool(processes, seconds, max_pixels, max_bytes)
    try:
        yield pool
    finally:
        await pool.close()


def children(pid: int | None = None) -> list[int]:
    """The decode processes of a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == (pid or os.getpid()) and b"processes.child" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def alive(pid: int) -> bool:
    """A zombie has ended."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.anyio
async def test_a_process_reads_what_the_function_reads() -> None:
    image, text = png(noise(20, 24)), base64.b64encode(png(half_mask(10, 12))).decode()
    async with running() as pool:
        for given in (
            upload(image, text),
            upload(image, None, mask_mode=None),
            Upload(size=(32, 32), mask=MASK, mask_mode="nonzero", grid=(2, 2), limits=LIMITS),
        ):
            read, expected = await pool.read(given, "ann"), read_upload(given)
            assert (read.size, read.blobs, read.recipe) == (expected.size, expected.blobs, expected.recipe)
            assert np.array_equal(read.fixed_cells, expected.fixed_cells)  # type: ignore[arg-type]
        with pytest.raises(ImageError, match="empty") as caught:
            await pool.read(upload(image, b""), "ann")
        assert caught.value.field == "mask"
        assert len(children()) == 1, "all were read by one process, which an error does not end"
    assert children() == []


async def outcome(pool: DecodePool, sent: Upload, *, but_for: str | None = None) -> Reading | ImageError:
    """What the pool reads or refuses. Reads again where another picture than the slow one was too slow, because on a
    busy machine even a small one may take longer than the pool allows. but_for: the field of the slow one."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await pool.read(sent, "ann")
        except ImageError as error:
            if error.code != "too_slow" or error.field == but_for or time.monotonic() > deadline:
                return error


@pytest.mark.anyio
@pytest.mark.parametrize("field", ["image", "mask"])
async def test_what_takes_too_long_is_refused_by_field_and_the_next_is_read(field: str) -> None:
    async with running(seconds=0.05) as pool:
        slow = upload(FLAT, None, mask_mode=None) if field == "image" else upload(png(noise(16, 16)), FLAT)
        refused = await outcome(pool, slow, but_for=field)
        assert isinstance(refused, ImageError)
        assert "more than 0.05 s to decode; save it again" in str(refused)
        assert (refused.field, refused.code, refused.status) == (field, "too_slow", 422)
        read = await outcome(pool, upload())
        assert isinstance(read, Reading)
        assert read.size == (16, 16)


@pytest.mark.anyio
async def test_what_needs_too_much_memory_is_refused() -> None:
    async with running(max_pixels=2**20, max_bytes=2**20) as pool:
        with pytest.raises(ImageError, match="too much memory") as caught:
            await pool.read(upload(FLAT, None, mask_mode=None), "ann")
        assert (caught.value.field, caught.value.code, caught.value.status) == ("image", "too_much_memory", 413)
        assert (await pool.read(upload(), "ann")).size == (16, 16)


@pytest.mark.anyio
async def test_who_leaves_frees_the_place_and_the_process_at_once() -> None:
    async with running() as pool:
        leaving = asyncio.create_task(pool.read(upload(FLAT), "ann"))
        waiting = asyncio.create_task(pool.read(upload(FLAT), "ann"))
        next_one = asyncio.create_task(pool.read(upload(), "ann"))
        assert await soon(lambda: len(children()) == 1)
        [process] = children()
        for task in (waiting, leaving):
            task.cancel()
        await asyncio.gather(leaving, waiting, return_exceptions=True)
        assert not alive(process)
        assert (await next_one).size == (16, 16)


@pytest.mark.anyio
async def test_each_client_has_its_turn() -> None:
    line, order = FairLine(1), []

    async def visit(client: str) -> None:
        async with line.place(client):
            order.append(client)
            await asyncio.sleep(0)

    await asyncio.gather(*(visit(client) for client in ["ann"] * 5 + ["bob", "cat", "bob"]))
    assert order == ["ann", "ann", "bob", "cat", "ann", "bob", "ann", "ann"]


@pytest.mark.anyio
async def test_uploads_that_wait_are_bounded_and_one_client_can_not_take_all() -> None:
    size = 10_000
    async with running(max_bytes=size) as pool:
        mine = [asyncio.create_task(pool.read(upload(bytes(size), None), "ann")) for _ in range(6)]
        await asyncio.sleep(0)
        assert [task.done() and isinstance(task.exception(), TooBusy) for task in mine] == [False] * 4 + [True] * 2
        theirs = asyncio.create_task(pool.read(upload(), "bob"))
        assert (await theirs).size == (16, 16)
        ended = await asyncio.gather(*mine, return_exceptions=True)
        assert [type(error) for error in ended] == [ImageError] * 4 + [TooBusy] * 2
        assert (await pool.read(upload(), "ann")).size == (16, 16)


@pytest.mark.anyio
async def test_a_process_that_was_killed_while_idle_is_replaced_and_sigterm_is_left_to_the_server() -> None:
    async with running() as pool:
        await pool.read(upload(), "ann")
        [first] = children()
        os.kill(first, signal.SIGTERM)
        await pool.read(upload(), "ann")
        assert children() == [first]
        os.kill(first, signal.SIGKILL)
        assert (await pool.read(upload(), "ann")).size == (16, 16)
        assert children() != [first]


@pytest.mark.anyio
async def test_a_process_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "IDLE_SECONDS", 0.1)
    async with running() as pool:
        await pool.read(upload(), "ann")
        assert await soon(lambda: children() == [])
        assert (await pool.read(upload(), "ann")).size == (16, 16)


@pytest.mark.parametrize("busy", [False, True])
def test_the_processes_end_with_the_server_however_it_ends(busy: bool) -> None:
    script = textwrap.dedent("""
        import asyncio, sys
        from service.tasks.pictures.errors import Limits
        from service.tasks.pictures.processes.pool import DecodePool
        from service.tasks.pictures.reading import Upload

        async def main(image, again):
            pool = DecodePool(1, 2.0, 2**24, 2**20)
            upload = Upload(image=image, grid=(4, 4), limits=Limits(2**24, 8192))
            await pool.read(upload, "ann")
            print("ready", flush=True)
            while again:
                await pool.read(upload, "ann")
            await asyncio.sleep(60)

        asyncio.run(main(sys.stdin.buffer.read(), int(sys.argv[1])))
    """)
    server = subprocess.Popen(
        [sys.executable, "-c", script, str(int(busy))], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdin is not None
    server.stdin.write(FLAT)
    server.stdin.close()
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    left = children(server.pid)
    assert len(left) == 1
    server.kill()
    server.wait()
    server.stdout.close()
    assert eventually(lambda: not any(alive(pid) for pid in left))


def test_a_process_loads_no_more_than_it_needs() -> None:
    script = "import sys, service.tasks.pictures.processes.child; "
    script += "sys.exit(bool({'torch', 'pydantic', 'redis', 'asyncio'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY).returncode == 0

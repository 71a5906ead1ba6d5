"""Uploads that cost much: other requests go on, nothing is left of a refused one, and who leaves frees the place."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest

from service.api.bodies import Body
from service.errors import Problem
from service.tasks.pictures.errors import ImageError
from service.tasks.pictures.processes.process import DecodeProcess
from service.tasks.pictures.reading import Upload
from tests.support.api import Api, half_mask, noise, png
from tests.support.waiting import eventually
from tests.tasks.hostile import chunk, flat_png, jpeg_of_scans, png_of_chunks
from tests.tasks.test_decode_processes import children

FLAT = flat_png()
MASK = png(half_mask(8, 8))
OTHER_SHAPE = png(half_mask(8, 7))


def inpaint(api: Api, image: bytes, mask: bytes = MASK, **fields: Any) -> Any:
    return api.client.post("/v1/inpaint", data=fields, files={"image": image, "mask": mask})


def multipart(image: bytes, mask: bytes) -> tuple[bytes, str]:
    request = httpx.Request("POST", "http://x", files={"image": image, "mask": mask})
    return request.read(), request.headers["content-type"]


@contextmanager
def held(api: Api) -> Iterator[Callable[[], int]]:
    """Meanwhile decode processes work for ever. Tells how many do."""
    begun: list[Upload] = []
    release = asyncio.Event()

    async def read(_: DecodeProcess, upload: Upload) -> None:
        begun.append(upload)
        await release.wait()
        raise ImageError("image", "released", "")

    with patch.object(DecodeProcess, "read", read):
        try:
            yield lambda: len(begun)
        finally:
            api.loop.call_soon_threadsafe(release.set)


def refusal(response: Any) -> tuple[int, str, str]:
    [error] = response.json()["errors"]
    return response.status_code, error["field"], error["code"]


def resident() -> int:
    """MB of this process, which runs the server, and of its decode processes."""
    pids = [os.getpid(), *children()]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def test_eighty_large_pictures_at_once_take_the_memory_of_two(api: Api) -> None:
    """Each has 50 MB of pixels. Most are refused for their masks, and nothing is kept of them."""
    assert inpaint(api, png(noise(16, 16))).status_code == 202  # imports, and a first process
    gc.collect()
    before, highest, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.01):
            highest = max(highest, resident())

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(80) as clients:
        masks = [MASK] * 2 + [OTHER_SHAPE] * 78
        answers = [*clients.map(lambda mask: inpaint(api, FLAT, mask), masks)]
    done.set()
    watching.join()
    assert [answer.status_code for answer in answers] == [202] * 2 + [422] * 78
    assert refusal(answers[-1]) == (422, "mask", "shape")
    assert highest - before < 500
    assert eventually(lambda: resident() < 1.1 * before + 40), "but for the connections of 80 clients"


@pytest.mark.parametrize(
    ("image", "mask"),
    [(FLAT, OTHER_SHAPE), (b"no picture", MASK), (FLAT, b"")],
    ids=["another shape", "no picture", "no mask"],
)
def test_nothing_is_kept_of_a_refused_request(api: Api, image: bytes, mask: bytes) -> None:
    """Not even until garbage is collected: a refusal's traceback refers to the whole request."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            assert inpaint(api, image, mask).status_code in (415, 422)
        assert eventually(lambda: kept() == [], 2), "a ring of references"
    finally:
        gc.enable()


def kept() -> list[object]:
    return [found for found in gc.get_objects() if type(found) in (Body, Upload, Problem, ImageError)]


def test_who_leaves_frees_the_place_of_an_upload(api: Api) -> None:
    """Two clients that do not wait hold both processes; the next upload is read all the same."""
    body, kind = multipart(FLAT, MASK)
    head = (
        f"POST /v1/inpaint HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    url = httpx.URL(api.url)
    with ThreadPoolExecutor(1) as client, held(api) as begun:
        leaving = [socket.create_connection((url.host, url.port)) for _ in range(2)]
        for connection in leaving:
            connection.sendall(head.encode() + body)
        assert eventually(lambda: begun() == 2)
        answer = client.submit(inpaint, api, png(noise(16, 16)))
        for connection in leaving:
            connection.close()
        assert eventually(lambda: begun() == 3), "the place is free"
    assert refusal(answer.result()) == (422, "image", "released")


def test_answers_in_other_formats_do_not_wait_for_uploads(api: Api) -> None:
    job = api.generate(seed=1)
    api.draw(api.claim())
    with ThreadPoolExecutor(3) as clients, held(api) as begun:
        uploads = [clients.submit(inpaint, api, FLAT) for _ in range(3)]
        assert eventually(lambda: begun() == 2)
        for format in ("webp", "jpeg"):
            answer = api.client.get(f"{job['urls']['self']}/images/0", headers={"Accept": f"image/{format}"})
            assert answer.headers["content-type"] == f"image/{format}"
        assert not any(upload.done() for upload in uploads)


@pytest.mark.parametrize(
    ("image", "field"),
    [(jpeg_of_scans(101), "image"), (png_of_chunks(*[chunk(b"prVt", b"")] * 16_384), "image")],
    ids=["scans", "chunks"],
)
def test_what_is_too_complex_is_refused_by_field(api: Api, image: bytes, field: str) -> None:
    assert refusal(inpaint(api, image)) == (422, "image", "too_complex")
    assert refusal(inpaint(api, png(noise(8, 8)), image)) == (422, "mask", "too_complex")

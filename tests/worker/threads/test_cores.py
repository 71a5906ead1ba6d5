"""Only engines compute with teams of threads, which together have as many threads as there are cores."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.worker.threads.background import BackgroundThreads
from service.worker.threads.codec_thread import CodecThread
from service.worker.threads.cores import available, coding_threads, compute_with, engine_cores

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("engines", "each", "beside_the_codec"), [(1, 6, 5), (2, 3, 2), (4, 1, 1), (7, 1, 1)])
def test_the_engines_of_a_process_share_its_cores(engines: int, each: int, beside_the_codec: int) -> None:
    assert engine_cores(6, engines, codec_busy=False) == each
    assert engine_cores(6, engines, codec_busy=True) == beside_the_codec


def test_few_cores_have_no_threads_for_files() -> None:
    assert [coding_threads(cores) for cores in (1, 2, 16, 128)] == [0, 0, 4, 8]


async def test_no_thread_but_an_engines_has_a_team(team: None) -> None:
    codec, palettes, engine = CodecThread(coders=1), BackgroundThreads("palettes"), ThreadPoolExecutor(1)
    codec.start()
    palettes.start()
    engine.submit(compute_with, 6).result()
    assert await codec.call("source", "a", available) == 1
    assert await palettes.call(available) == 1
    assert engine.submit(available).result() == 6
    codec.close()
    palettes.close()

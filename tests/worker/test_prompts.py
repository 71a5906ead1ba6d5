"""Prompts through the whole service, HTTP to engine, with a model of classes and one that takes text in one worker."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from engine.core.engine import Engine, EngineConfig
from engine.models.checkpoint import CheckpointError
from engine.request import Request
from service.cli.verify import redraw
from service.jobs import Event
from service.jobs.result import JobResult
from service.settings import Settings
from service.tasks.pictures import recipe
from service.worker.engine_loading import load_engine
from service.worker.engine_thread import EngineThread
from tests.support.api import half_mask, noise, png, running_api
from tests.support.tiny import random_folder
from tests.support.worker import Service, serving

MUG = "a purple mug on a green floor"
FOG = "grey sky"
LONG = "a red ball " * 5 + "and a cat"


def load(folder: Path) -> Engine:
    config = EngineConfig(cache_tokens=2048, check_every_step=True, batch_invariant=True)
    return Engine.load(folder, device="cpu", config=config)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of the models `classes`, `words` and `edits`."""
    root = tmp_path_factory.mktemp("models")
    text: dict[str, Any] = {"family": "llamagen-t2i", "text_encoder": True}
    return [
        random_folder(root / "classes", name="classes", grid=(4, 4)),
        random_folder(root / "words", name="words", grid=(4, 4), **text),
        random_folder(root / "edits", name="edits", grid=(4, 4), **text | {"family": "arpg-t2i"}),
    ]


@pytest.fixture(scope="module")
def words(folders: list[Path]) -> Engine:
    """Draws alone what the worker draws among others."""
    return load(folders[1])


def drawn(engine: Engine, prompt: str, negative: str | None = None, **fields: Any) -> np.ndarray:
    encoder = engine.text_encoder
    assert encoder is not None
    against = None if negative is None else encoder.encode(negative)
    [tokens] = engine.generate([Request(prompt=encoder.encode(prompt), negative_prompt=against, **fields)])
    return tokens


@dataclass
class Front:
    """The HTTP face, off the worker's event loop."""

    client: httpx.Client
    service: Service

    async def ask(self, path: str, **fields: Any) -> str:
        response = await asyncio.to_thread(self.client.post, path, json=fields)
        assert response.status_code in (200, 202), response.text
        job_id: str = response.json()["id"]
        return job_id

    async def result(self, job_id: str) -> JobResult:
        return await self.service.result(job_id)

    async def end(self, job_id: str) -> Event:
        return (await self.service.events(job_id))[-1]

    async def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = (await asyncio.to_thread(self.client.get, f"/v1/jobs/{job_id}")).json()
        return job

    async def picture(self, job_id: str) -> bytes:
        return (await asyncio.to_thread(self.client.get, f"/v1/jobs/{job_id}/images/0?format=png")).content


@pytest.fixture
async def front(redis_url: str, folders: list[Path]) -> AsyncIterator[Front]:
    async with serving(redis_url, *map(load, folders), grace=10) as service:
        settings = Settings(redis_url=redis_url, _env_file=None)
        with running_api(settings) as api:
            await asyncio.to_thread(api.wait_for_models, lambda served: served == {"classes", "words", "edits"})
            yield Front(api.client, service)


@pytest.mark.anyio
async def test_prompts_and_classes_are_drawn_in_one_worker_as_each_is_alone(
    front: Front, words: Engine, folders: list[Path]
) -> None:
    asked: list[dict[str, Any]] = [
        {"prompt": MUG, "seed": 3},
        {"prompt": MUG, "negative_prompt": FOG, "seed": 3, "guidance_scale": 3.0},
        {"prompt": FOG, "seed": 3, "guidance_scale": 1},
        {"seed": 3},
    ]
    jobs = [await front.ask("/v1/generate", model="words", **fields) for fields in asked]
    of_class = await front.ask("/v1/generate", **{"model": "classes", "class": 1, "seed": 3, "steps": 5})
    results = [await front.result(job) for job in jobs]
    expected = [
        drawn(words, MUG, seed=3, guidance_scale=words.model.defaults.guidance_scale),
        drawn(words, MUG, FOG, seed=3, guidance_scale=3.0),
        drawn(words, FOG, seed=3, guidance_scale=1.0),
        words.generate([Request(seed=3, guidance_scale=1.0)])[0],
    ]
    for result, tokens in zip(results, expected, strict=True):
        assert np.array_equal(result.images[0].tokens(), tokens)
    assert len({tokens.tobytes() for tokens in expected}) == 4, "the texts decide what is drawn"
    [alone] = load(folders[0]).generate([Request(class_label=1, seed=3, steps=5)])
    assert np.array_equal((await front.result(of_class)).images[0].tokens(), alone)

    # A prompt has a stage of its own, and its tokens are counted.
    with_prompt, without = results[1], results[3]
    assert words.text_encoder is not None
    rows = sum(len(words.text_encoder.encode(text).rows) for text in (MUG, FOG))
    assert (with_prompt.usage["tokens_text"], with_prompt.warnings) == (rows, ())
    assert with_prompt.timings["encode_seconds"] > 0
    stages = ("queue", "load", "encode", "draw", "decode", "store")
    job = await front.job(jobs[1])
    assert sum(with_prompt.timings[f"{stage}_seconds"] for stage in stages) == pytest.approx(
        job["timings"]["total_seconds"], abs=5
    )
    assert "encode_seconds" not in without.timings
    assert "tokens_text" not in without.usage

    # The picture says how to draw it again, and so does a fork of it.
    told = recipe.read(recipe.text_of(await front.picture(jobs[1])))
    assert (told.prompt, told.negative_prompt) == (MUG, FOG)
    assert np.array_equal(redraw(words, told)[0], expected[1])
    fork = await front.ask(f"/v1/jobs/{jobs[1]}/fork", step=5, seed=8)
    tokens = (await front.result(fork)).images[0].tokens()
    assert np.array_equal(tokens.flat[:5], expected[1].flat[:5])
    assert not np.array_equal(tokens, expected[1])
    told = recipe.read(recipe.text_of(await front.picture(fork)))
    assert np.array_equal(redraw(words, told)[0], tokens)


@pytest.mark.anyio
async def test_what_is_not_read_of_a_prompt_is_a_warning(front: Front) -> None:
    job = await front.ask("/v1/generate", model="words", prompt=LONG, negative_prompt="fog 房子 naïve")
    warnings = (await front.end(job)).json()["warnings"]
    fields = [(one["field"], one["code"]) for one in warnings]
    codes = ("prompt", "truncated"), ("negative_prompt", "dropped_words"), ("negative_prompt", "unknown_words")
    assert fields == [*codes]
    assert "its end: “" in warnings[0]["message"]
    assert warnings[1]["message"].endswith(": “房子”")
    assert warnings[2]["message"].endswith(": “naïve”")
    assert (await front.job(job))["warnings"] == warnings


PICTURE = base64.b64encode(png(noise(8, 8))).decode()
MASK = base64.b64encode(png(half_mask(8, 8))).decode()
EDITS: dict[str, dict[str, Any]] = {
    "generate": {},
    "inpaint": {"image": PICTURE, "mask": MASK},
    "outpaint": {"image": PICTURE, "right": 4},
    "vary": {"image": PICTURE, "keep": 0.5},
    "expand": {"width": 12, "height": 8},
}


@pytest.mark.anyio
@pytest.mark.parametrize("task", EDITS)
async def test_every_task_is_drawn_by_prompt_and_so_is_its_fork(front: Front, folders: list[Path], task: str) -> None:
    """As a picture's recipe says, alone. A word that the encoder does not know is a warning in each."""
    asked: dict[str, Any] = {
        "model": "edits",
        "prompt": "a red naïve cube",
        "negative_prompt": FOG,
        "seed": 3,
        "steps": 4,
    }
    asked |= {"n": 2, "temperature": 2}
    job = await front.ask(f"/v1/{task}", **asked, **EDITS[task])
    jobs = [job]
    if task != "outpaint":  # a canvas in windows can't be forked
        await front.result(job)
        jobs.append(await front.ask(f"/v1/jobs/{job}/fork", step=2, seed=8))
    alone = load(folders[2])
    seen = set()
    for each in jobs:
        result = await front.result(each)
        told = recipe.read(recipe.text_of(await front.picture(each)))
        assert (told.prompt, told.negative_prompt) == (asked["prompt"], FOG)
        tokens = result.images[0].tokens()
        assert np.array_equal(redraw(alone, told)[0], tokens)
        seen.add(tokens.tobytes())
        [warning] = (await front.end(each)).json()["warnings"]
        assert (warning["field"], warning["code"]) == ("prompt", "unknown_words")
        assert warning["message"].endswith(": “naïve”")
        assert (await front.job(each))["warnings"] == [warning]
    assert len(seen) == len(jobs)
    other = await front.ask(f"/v1/{task}", **asked | {"prompt": "a red ball"}, **EDITS[task])
    assert (await front.result(other)).images[0].tokens().tobytes() not in seen, "the prompt decides"


@pytest.mark.anyio
async def test_a_prompt_that_does_not_fit_the_cache_is_told_by_its_field(redis_url: str, folders: list[Path]) -> None:
    """How long it is only the worker's encoder knows; the answer says how long it may be."""
    config = EngineConfig(page_size=4, cache_tokens=48, check_every_step=True)
    async with serving(redis_url, Engine.load(folders[1], device="cpu", config=config), grace=10) as service:
        with running_api(Settings(redis_url=redis_url, _env_file=None)) as api:
            await asyncio.to_thread(api.wait_for_models, lambda served: served == {"words"})
            front = Front(api.client, service)
            short = await front.ask("/v1/generate", prompt="a red ball")
            long = await front.ask("/v1/generate", prompt=LONG)
            away = await front.ask("/v1/generate", prompt="a red ball", negative_prompt=LONG)
            await front.result(short)
            for job, field in ((long, "prompt"), (away, "negative_prompt")):
                await front.end(job)
                error = (await front.job(job))["error"]
                need = "needs 14 pages of the KV cache, which has 12 in all"
                says = f"{field}: has 12 tokens, with which the picture {need}; at most 9 tokens fit"
                assert error == {"code": "invalid_request", "message": says, "field": field}


@pytest.mark.anyio
@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
async def test_a_text_without_a_word_that_is_read_ends_the_job_by_its_field(front: Front, field: str) -> None:
    job = await front.ask("/v1/generate", **{"model": "words", "prompt": MUG, field: "房子"})
    assert (await front.end(job)).name == "failed"
    error = (await front.job(job))["error"]
    assert (error["code"], error["field"]) == ("invalid_request", field)
    assert error["message"].startswith(f"{field}: nothing is left of it")


@pytest.mark.anyio
async def test_prompts_are_encoded_on_the_codecs_thread(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = front.service.engines["words"].text_encoder
    assert encoder is not None
    encode, seen = encoder.encode, set()

    def watched(text: str, field: str) -> Any:
        seen.add(threading.current_thread().name)
        return encode(text, field)

    monkeypatch.setattr(encoder, "encode", watched)
    await front.result(await front.ask("/v1/generate", model="words", prompt=MUG, negative_prompt=FOG))
    assert seen == {"codec"}


def test_an_engine_that_takes_text_is_probed_without_a_class(words: Engine) -> None:
    """After a failed step the worker tries whether the engine still draws; a class would be refused."""
    EngineThread(words, lambda report: None)._probe()
    assert words.generate([Request(seed=1)])[0].shape == (4, 4)


def test_a_model_whose_prompts_nobody_reads_is_not_served(tmp_path: Path) -> None:
    folder = random_folder(tmp_path / "words", family="llamagen-t2i", grid=(4, 4))
    with pytest.raises(CheckpointError, match="names no text_encoder"):
        load_engine(Settings(models=[str(folder)], device="cpu", _env_file=None), str(folder))

"""Variations, outpaintings and expansions through the worker: what is kept, what is told, and in which coordinates."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.core.engine import Engine, EngineConfig
from engine.editing.masks import fit, kept_cells
from engine.editing.outpainting import Padding, assemble, outpaint_geometry
from engine.editing.windows import WindowedGeneration, cells_of_windows, windows_over
from engine.request import EMPTY, Window
from service.jobs.spec import JobSpec
from service.tasks import drawing
from service.tasks.pictures import recipe
from tests.support.waiting import PATIENCE, soon
from tests.support.worker import Service, alone, pixels, png

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 26, 3), dtype=np.uint8)
SIZE = (8, 8)


def load(folder: Path) -> Engine:
    return Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=2048, batch_invariant=True))


def painted(folder: Path, spec: JobSpec, canvas: np.ndarray) -> list[np.ndarray]:
    """Window after window, picture after picture, as the library draws them."""
    engine = load(folder)
    pictures = []
    for template in drawing.requests(spec, engine.model):
        generation = WindowedGeneration(template, canvas, windows_over(canvas != EMPTY, SIZE), SIZE)
        while (request := generation.next_request()) is not None:
            engine.add(request)
            while not engine.idle:
                for update in engine.step():
                    generation.update(update)
        pictures.append(generation.tokens)
    return pictures


def drawn_tokens(spec: JobSpec, canvas: np.ndarray) -> int:
    """How many tokens are drawn of a picture; those at borders between windows are drawn twice."""
    windows = [Window(row, col, canvas.shape[1]) for row, col in spec.windows or ((0, 0),)]
    return sum(int(drawn.sum()) for drawn in cells_of_windows(canvas != EMPTY, windows, spec.window_shape))


async def told(service: Service, job_id: str, image: int, known: np.ndarray) -> np.ndarray:
    """The canvas as a watcher paints it, having checked that the steps and counts add up."""
    canvas, done, step = known.copy(), 0, 0
    total = drawn_tokens(await service.spec(job_id), known)
    for event in await service.events(job_id):
        if event.name == "tokens" and event.json()["image_index"] == image:
            if total == (known == EMPTY).sum():
                assert (canvas.flat[event.json()["positions"]] == EMPTY).all()
            canvas.flat[event.json()["positions"]] = event.json()["tokens"]
            done += len(event.json()["positions"])
            assert step < event.json()["step"] <= event.json()["steps"]
            step = event.json()["step"]
            assert (event.json()["n_done"], event.json()["n_total"]) == (done, total)
    steps = (await service.seen(job_id, "started")).json()["steps"]
    assert (step, done) == (steps, total)
    return canvas


@pytest.mark.anyio
async def test_a_variation_keeps_its_tokens_its_size_and_none_of_its_pixels(
    service: Service, folder: Path, engine: Engine
) -> None:
    await service.blobs.put("a/image", png(IMAGE))
    fields = {"task": "vary", "image": "a/image", "keep": 0.4, "keep_seed": 9, "n": 2, "steps": 5}
    await service.submit("a", **fields)
    result = await service.result("a")
    keep = kept_cells(9, 0.4, SIZE)
    theirs = engine.codec.encode(fit(IMAGE, (16, 16)))
    known = {int(cell): int(theirs.flat[cell]) for cell in np.flatnonzero(keep)}
    canvas = np.where(keep, theirs, EMPTY)
    for made, expected in zip(result.images, alone(folder, known, **fields), strict=True):
        tokens = made.tokens()
        assert np.array_equal(tokens, expected)
        assert np.array_equal(tokens, await told(service, "a", made.index, canvas))
        assert (made.width, made.height) == (26, 20)
        shown = pixels(await service.blobs.get(made.blob))
        assert np.array_equal(shown, fit(engine.codec.decode(tokens), (20, 26)))
    assert np.array_equal(~(await service.spec("a")).fixed_cells, ~keep)
    assert result.usage == {"steps": 5, "tokens_drawn": 2 * (~keep).sum(), "tokens_known": 2 * keep.sum()}
    # The images of a job keep the same, and compute it once.
    assert engine.stats().rows_shared_total > 0


@pytest.mark.anyio
async def test_an_outpainting_keeps_its_pixels_and_is_told_in_canvas_coordinates(
    service: Service, folder: Path, engine: Engine, slowly: None
) -> None:
    await service.blobs.put("a/image", png(IMAGE))
    asked = Padding(left=3, right=30)
    geometry = outpaint_geometry((20, 26), asked, grid=SIZE, stride=2)
    fields = {
        "task": "outpaint", "image": "a/image", "left": 3, "right": 30, "n": 2, "steps": 4, "previews": 3,
    }  # fmt: skip
    await service.submit("a", **fields)
    assert await service.seen("a", "preview")  # none is kept once the job has ended
    result = await service.result("a")
    canvas = geometry.canvas(geometry.own(engine.codec.encode(geometry.continued(fit(IMAGE, geometry.fitted)))))
    windows = windows_over(canvas != EMPTY, SIZE)
    assert len(windows) > 2
    for made, expected in zip(result.images, painted(folder, await service.spec("a"), canvas), strict=True):
        tokens = made.tokens()
        assert np.array_equal(tokens, expected)
        assert np.array_equal(tokens, await told(service, "a", made.index, canvas))
        assert (made.height, made.width) == geometry.size
        png_ = await service.blobs.get(made.blob)
        shown = pixels(png_)
        padding = geometry.padding
        assert np.array_equal(shown[:, padding.left : padding.left + 26], IMAGE)
        assert np.array_equal(shown, assemble(IMAGE, engine.codec.decode(tokens), geometry, smooth=True))
        said = recipe.read(recipe.text_of(png_ or b""))
        assert said.windows == tuple((window.row, window.col) for window in windows)
    started = await service.seen("a", "started")
    unknown = int((canvas == EMPTY).sum())
    assert started.json() == {
        "attempt": 1, "images": 2, "grid": list(geometry.grid), "steps": result.usage["steps"],
        "known": canvas.size - unknown, "kept": [],
        "tokenizer": engine.model.tokenizer, "weights": engine.model.weights,
    }  # fmt: skip
    assert result.usage["tokens_drawn"] == 2 * drawn_tokens(await service.spec("a"), canvas) > 2 * unknown
    assert result.usage["tokens_known"] == 2 * (canvas.size - unknown)
    assert await service.blobs.get("a/image") is None  # nothing forks it


@pytest.mark.anyio
@pytest.mark.parametrize("extension", ["extrapolate", "interpolate", "ntk", None])
async def test_an_expansion_is_drawn_at_once_or_in_windows(
    service: Service, folder: Path, extension: str | None
) -> None:
    fields = {"task": "expand", "width": 24, "height": 16, "steps": 5, "method": extension or "windowed"}
    await service.submit("a", **fields)
    result = await service.result("a")
    [made] = result.images
    tokens, empty = made.tokens(), np.full((8, 12), EMPTY)
    assert np.array_equal(tokens, await told(service, "a", 0, empty))
    if extension is None:
        [expected] = painted(folder, await service.spec("a"), empty.astype(np.int32))
    else:
        own = load(folder)  # the worker's belongs to its thread
        [expected] = own.generate(drawing.requests(await service.spec("a"), own.model))
    assert np.array_equal(tokens, expected)
    assert (made.width, made.height, made.grid) == (24, 16, (8, 12))


@pytest.mark.anyio
async def test_what_is_given_as_tokens_is_not_encoded(
    service: Service, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a source, or of an upload whose recipe tells them: the plan carries them."""
    await service.submit("a", steps=4)
    [first] = (await service.result("a")).images
    file = await service.blobs.get(first.blob)
    assert file is not None
    encoded: list[Any] = []
    encode = engine.codec.encode

    def counted_encode(image: Any) -> Any:
        encoded.append(image)
        return encode(image)

    monkeypatch.setattr(engine.codec, "encode", counted_encode)
    for name, tokens in (("upload", first.tokens()), ("source", np.full((8, 8), 5))):
        await service.blobs.put(f"{name}/image", file)
        fields = {"task": "vary", "image": f"{name}/image", "keep": 0.5, "keep_seed": 1, "steps": 3}
        await service.submit(name, **fields, tokens=tokens.astype(np.int32))
        [made] = (await service.result(name)).images
        keep = kept_cells(1, 0.5, SIZE)
        assert np.array_equal(made.tokens()[keep], tokens[keep])
    assert not encoded


@pytest.mark.anyio
async def test_a_source_of_a_larger_grid_is_edited_on_it(service: Service, engine: Engine) -> None:
    rng = np.random.default_rng(3)
    image, mask = rng.integers(0, 256, (16, 40, 3), dtype=np.uint8), np.zeros((16, 40), dtype=bool)
    mask[4:9, 6:31] = True
    tokens = rng.integers(0, 64, (8, 20))
    await service.blobs.put("a/image", png(image))
    await service.blobs.put("a/mask", png(mask))
    fields = {"task": "inpaint", "image": "a/image", "mask": "a/mask", "steps": 4, "seamless": False}
    await service.submit("a", **fields, tokens=tokens.astype(np.int32))
    result = await service.result("a")
    [made] = result.images
    drawn = ~(await service.spec("a")).fixed_cells
    assert drawn.shape == (8, 20)
    assert np.array_equal(made.tokens()[~drawn], tokens[~drawn])
    shown = pixels(await service.blobs.get(made.blob))
    assert np.array_equal(shown[~mask], image[~mask])
    decoded = engine.codec.decode(made.tokens())
    assert np.array_equal(shown[mask], decoded[mask])


@pytest.mark.anyio
async def test_a_wide_picture_stopped_between_two_windows_leaves_nothing(
    service: Service, engine: Engine, slowly: None
) -> None:
    await service.submit("a", task="expand", width=64, height=16, method="windowed", n=2, steps=64)
    await service.seen("a", "tokens")
    [run] = service.worker._models[0]._jobs.values()
    async with asyncio.timeout(PATIENCE):
        while service.sample("generation_tokens_total", model="random") < 140:
            # The cache that a picture waits for between two windows is pledged to it; else none is.
            assert 0 <= run.unadmitted_cost <= run.claim.cost
            await asyncio.sleep(0.005)
    assert await service.queue.cancel("a") == "requested"
    assert [event.name for event in await service.events("a")][-1] == "canceled"
    assert await soon(lambda: engine.idle and not engine.stats().pages_used)
    assert service.sample("generation_tokens_total", model="random") < 512
    await service.submit("b")
    assert len((await service.result("b")).images) == 1


@pytest.mark.anyio
async def test_jobs_in_windows_and_others_share_the_cache_without_harm(service: Service, folder: Path) -> None:
    """More of both than the cache holds at once."""
    size = {"task": "expand", "width": 28, "height": 16, "method": "windowed"}
    wide: dict[str, dict[str, Any]] = {f"w{i}": size | {"seed": i, "steps": 6, "n": 2} for i in range(3)}
    plain: dict[str, dict[str, Any]] = {f"p{i}": {"seed": 10 + i, "steps": 9, "n": 1 + i % 2} for i in range(4)}
    for job_id, fields in (wide | plain).items():
        await service.submit(job_id, **fields)
    empty = np.full((8, 14), EMPTY, dtype=np.int32)
    for job_id, fields in (wide | plain).items():
        images = (await service.result(job_id)).images
        spec = await service.spec(job_id)
        expected = painted(folder, spec, empty) if job_id in wide else alone(folder, **fields)
        assert [image.tokens().tolist() for image in images] == [tokens.tolist() for tokens in expected]


@pytest.mark.anyio
async def test_a_wide_picture_begun_by_another_attempt_is_the_same(
    service: Service, folder: Path, slowly: None
) -> None:
    fields = {"task": "expand", "width": 40, "height": 16, "method": "windowed", "steps": 16}
    await service.submit("a", **fields)
    assert await soon(lambda: service.sample("generation_tokens_total", model="random") >= 70)  # in the second window
    assert await service.queue.release("a", 1) == "ok"
    [made] = (await service.result("a")).images
    [expected] = painted(folder, await service.spec("a"), np.full((8, 20), EMPTY, dtype=np.int32))
    assert np.array_equal(made.tokens(), expected)
    attempts = {event.id.partition("-")[0] for event in await service.events("a") if event.name == "tokens"}
    assert attempts == {"1", "2"}

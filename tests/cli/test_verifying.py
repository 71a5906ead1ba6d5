"""`arpg verify`: a picture is drawn again from what it says of itself, and every difference is told."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.core.engine import Engine, EngineConfig
from engine.editing.masks import composite, fit, fixed_cells, fixed_tokens
from engine.editing.outpainting import Padding, assemble, outpaint_geometry
from engine.editing.windows import WindowedGeneration, windows_over
from engine.request import Request
from service.cli.main import main
from service.jobs.packing import pack_bits, pack_tokens
from service.tasks.pictures import recipe
from service.tasks.pictures.images import encode
from service.tasks.pictures.recipe import forked
from tests.support.tiny import random_folder

REQUEST = Request(class_label=2, seed=9, steps=6, guidance_scale=2.0)
Verify = Callable[[bytes], tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=4096))


@pytest.fixture
def verify(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Verify:
    """Status, what it said, and what it said of errors."""

    def run(file: bytes) -> tuple[int, str, str]:
        path = tmp_path / "picture.png"
        path.write_bytes(file)
        capsys.readouterr()
        status = main(["verify", str(path), "--model", str(folder), "--device", "cpu"])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def drawn(engine: Engine, request: Request, **more: Any) -> bytes:
    [tokens] = engine.generate([request])
    return finished(engine, tokens, request, **more)


def finished(
    engine: Engine, tokens: np.ndarray, request: Request, shown: np.ndarray | None = None, **more: Any
) -> bytes:
    """The PNG of a token map, with its recipe. shown: the picture, where it is not just what the tokens decode to."""
    pixels = engine.codec.decode(tokens) if shown is None else shown
    about: dict[str, Any] = {"class_name": "class 2", "composited": shown is not None} | more
    text = recipe.write(pixels, tokens, request, engine.model, **about)
    return encode(pixels, "png", text={recipe.KEYWORD: text})


def retold(file: bytes, shown: np.ndarray, **fields: Any) -> bytes:
    """The same pixels under a recipe that says something else."""
    said = json.loads(recipe.text_of(file) or "") | fields
    return encode(shown, "png", text={recipe.KEYWORD: json.dumps(said)})


def pixels_of(file: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(file)))


def test_a_picture_as_it_was_drawn_is_the_same(engine: Engine, verify: Verify) -> None:
    status, said, errors = verify(drawn(engine, REQUEST))
    assert (status, errors) == (0, "")
    assert said.splitlines() == [
        "drawn by random: generate, class 2 class 2, seed 9, 8×8 tokens",
        "tokens: all 64 that were drawn are the same",
        "pixels: all are the decoded tokens'",
    ]


@pytest.mark.parametrize(
    "request_",
    [
        Request(class_label=None, seed=1, steps=3),
        dataclasses.replace(REQUEST, order=tuple(reversed(range(64))), temperature=0.5, top_k=5, task="vary"),
        dataclasses.replace(REQUEST, fixed_tokens=dict.fromkeys(range(20), 3)),
        dataclasses.replace(REQUEST, grid=(8, 10), rope_scaling="interpolate", content_attention="causal"),
    ],
    ids=["no class", "every setting", "known", "larger grid"],
)
def test_whatever_was_asked_for_is_drawn_again(engine: Engine, verify: Verify, request_: Request) -> None:
    status, said, _ = verify(drawn(engine, request_))
    assert (status, f"{64 if request_.grid is None else 80}" in said or "44" in said) == (0, True), said


def test_an_edited_picture_differs(engine: Engine, verify: Verify) -> None:
    file = drawn(engine, REQUEST)
    pixels = pixels_of(file)
    pixels[3, 4, 1] ^= 128
    status, said, _ = verify(retold(file, pixels))
    assert status == 1
    assert "pixels: changed since the recipe was written" in said
    assert "tokens: all 64" in said
    assert "pixels: 1 of 256 differ from the decoded tokens, by up to 128 of 255" in said
    # A forger who mends the digest is found out by the decoder; a level or two is its own rounding.
    status, said, _ = verify(retold(file, pixels, pixels=recipe.digest(pixels)))
    assert (status, "changed" in said) == (1, False)
    slightly = pixels_of(file)
    slightly[3, 4, 1] ^= 1
    status, said, _ = verify(retold(file, slightly, pixels=recipe.digest(slightly)))
    assert (status, "by up to 1 of 255" in said) == (0, True)


def test_tokens_that_it_would_not_draw_are_counted_from_the_first_step_on(engine: Engine, verify: Verify) -> None:
    request = dataclasses.replace(REQUEST, steps=64)
    [tokens] = engine.generate([request])
    order: list[int] = []
    engine.add(request)
    while not engine.idle:
        order += [position for update in engine.step() for position in update.positions]
    tokens = tokens.copy()
    for cell in (order[40], order[50]):
        tokens.flat[cell] = (tokens.flat[cell] + 1) % engine.model.codebook_size
    file = finished(engine, tokens, request, class_name=None)
    status, said, _ = verify(file)
    assert (status, "tokens: 2 of 64 that were drawn differ, from step 41 of 64 on" in said) == (1, True), said
    assert "pixels: all are the decoded tokens'" in said
    status, said, _ = verify(retold(drawn(engine, REQUEST), pixels_of(drawn(engine, REQUEST)), seed=10))
    assert (status, "that were drawn differ, from step 1 of 6 on" in said) == (1, True), said


def test_an_inpainted_picture_is_compared_by_its_tokens(engine: Engine, verify: Verify) -> None:
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (21, 33, 3), dtype=np.uint8), np.zeros((21, 33), dtype=bool)
    mask[4:15, 3:20] = True
    redrawn = ~fixed_cells(mask, engine.model.grid)
    fixed = fixed_tokens(engine.codec.encode(fit(image, (16, 16))), ~redrawn)
    request = dataclasses.replace(REQUEST, fixed_tokens=fixed, task="inpaint")
    [tokens] = engine.generate([request])
    shown = composite(image, engine.codec.decode(tokens), mask, 2)
    file = finished(engine, tokens, request, shown)
    status, said, _ = verify(file)
    assert status == 0
    count = int(redrawn.sum())
    assert f"{64 - count} of them given" in said
    assert f"tokens: all {count} that were drawn are the same" in said
    edited = pixels_of(file)
    edited[0, 0, 0] ^= 1
    assert verify(retold(file, edited))[0] == 1
    tokens[tuple(np.argwhere(redrawn)[0])] ^= 1
    assert verify(finished(engine, tokens, request, shown))[0] == 1


def test_an_outpainting_is_drawn_again_window_by_window(engine: Engine, verify: Verify) -> None:
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    geometry = outpaint_geometry((16, 16), Padding(right=14, left=3), grid=engine.model.grid, stride=2)
    canvas = geometry.canvas(engine.codec.encode(fit(image, geometry.fitted)))
    template = dataclasses.replace(REQUEST, task="outpaint")
    windows = windows_over(geometry.fixed_cells, engine.model.grid)
    generation = WindowedGeneration(template, canvas, windows, engine.model.grid)
    while (request := generation.next_request()) is not None:
        engine.add(request)
        while not engine.idle:
            for update in engine.step():
                generation.update(update)
    lie = [(window.row, window.col) for window in windows]
    assert len(lie) > 1
    shown = assemble(image, engine.codec.decode(generation.tokens), geometry)
    about: dict[str, Any] = {"shown": shown, "known": geometry.fixed_cells}
    file = finished(engine, generation.tokens, template, windows=lie, **about)
    status, said, _ = verify(file)
    assert (status, "tokens: all 72 that were drawn are the same" in said) == (0, True), said
    assert verify(finished(engine, generation.tokens, template, windows=lie[::-1], **about))[0] != 0
    status, _, errors = verify(retold(file, pixels_of(file), windows=[[0, 10]]))
    assert (status, "window that reaches beyond the canvas" in errors) == (2, True)


def test_a_fork_is_drawn_again_from_its_first_ancestor_on(engine: Engine, verify: Verify) -> None:
    [tokens] = engine.generate([REQUEST])
    child = engine.fork(REQUEST, dict(enumerate(tokens.ravel().tolist())), 2, 31)
    [tokens] = engine.generate([child])
    forks = forked((), REQUEST.seed, 2)
    assert verify(drawn(engine, child, forks=forks))[0] == 0
    assert verify(drawn(engine, child))[0] == 1  # without a word of its parent
    grandchild = engine.fork(child, dict(enumerate(tokens.ravel().tolist())), 4, 32)
    assert verify(drawn(engine, grandchild, forks=forked(forks, child.seed, 4)))[0] == 0
    early = engine.fork(child, dict(enumerate(tokens.ravel().tolist())), 1, 32)
    assert verify(drawn(engine, early, forks=forked(forks, child.seed, 1)))[0] == 0
    status, _, errors = verify(drawn(engine, child, forks=[(6, 9)]))
    assert (status, "step: must be between 1 and 5" in errors) == (2, True)


def test_what_cannot_be_said_is_not_called_a_difference(
    engine: Engine, verify: Verify, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = drawn(engine, REQUEST)
    pixels = pixels_of(file)
    for unsayable, why in [
        (encode(pixels, "png"), "it carries no recipe"),
        (encode(pixels, "jpeg"), "it carries no recipe"),
        (b"no picture", "not a PNG, JPEG or WebP"),
        (file[: len(file) // 2], "it ends in the middle"),
        (retold(file, pixels, version=9), "version"),
        (retold(file, pixels, weights="0" * 16), "drawn with other weights"),
        (retold(file, pixels, tokenizer="0" * 16), "drawn with other weights"),
        (retold(file, pixels, prefill="block"), "prefill: Input should be 'causal'"),
        (retold(file, pixels, extension="longer"), "extension: Input should be"),
        (retold(file, pixels, steps=0), "steps: must be between"),
        (retold(file, pixels, tokens=pack_tokens(np.full((8, 8), 9999))), "not in the codebook"),
        (retold(file, pixels, known=pack_bits(np.ones((8, 8), dtype=bool))), "nothing is left to draw"),
    ]:
        status, said, errors = verify(unsayable)
        assert status == 2, said
        assert why in errors
        assert "can't say" in errors
    path = tmp_path / "there.png"
    path.write_bytes(file)
    assert main(["verify", str(path)]) == 2
    assert "its model, random, goes by no name here; say where it is with --model" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "nowhere.png")]) == 2
    assert main(["verify", str(path), "--model", str(tmp_path)]) == 2
    assert "nor a folder with a model.json" in capsys.readouterr().err

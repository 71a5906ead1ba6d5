"""`arpg verify` on composites: what was drawn is compared, the rest is called unchecked, and noise is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from engine.core.engine import Engine
from engine.editing.masks import composite, fit, fixed_cells, fixed_tokens
from engine.editing.outpainting import Padding, assemble, outpaint_geometry
from engine.editing.windows import WindowedGeneration, windows_over
from service.tasks.pictures import recipe
from service.tasks.pictures.colours import from_srgb, to_srgb
from service.tasks.pictures.images import encode
from tests.cli.verifying import REQUEST, Verify, drawn, finished, pixels_of, retold
from tests.tasks.test_colours import P3


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
    assert status == 3
    assert "or more tokens inside the redrawn part" in said
    assert "all others are unchecked" in said
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
    assert (status, "tokens: all 72 that were drawn are the same" in said) == (3, True), said
    assert "288 of 288 compared are what the tokens decode to; compared were the pixels around the original" in said
    assert verify(finished(engine, generation.tokens, template, windows=lie[::-1], **about))[0] != 0
    status, _, errors = verify(retold(file, pixels_of(file), windows=[[0, 10]]))
    assert (status, "window that reaches beyond the canvas" in errors) == (2, True)


@pytest.mark.parametrize("task", ["generate", "expand", "inpaint", "outpaint", "vary", "other"])
@pytest.mark.parametrize("size", [(16, 16), (40, 24)], ids=["own size", "other size"])
def test_a_genuine_recipe_does_not_vouch_for_noise(
    engine: Engine, verify: Verify, task: str, size: tuple[int, int]
) -> None:
    """The forger calls the picture a composite, and mends the digest."""
    known = np.zeros((8, 8), dtype=bool)
    if task in ("inpaint", "outpaint", "vary"):
        known[:, :3] = True
    fixed = dict.fromkeys(np.flatnonzero(known).tolist(), 3)
    genuine = drawn(engine, dataclasses.replace(REQUEST, task=task, fixed_tokens=fixed))
    noise = np.random.default_rng(5).integers(0, 256, (*size, 3), dtype=np.uint8)
    status, said, errors = verify(retold(genuine, noise, composited=True, pixels=recipe.digest(noise)))
    assert status == (1 if task == "inpaint" or (task == "vary" and size != (16, 16)) else 2), said + errors
    assert "unchecked" not in said


def test_a_variation_of_another_size_is_compared_as_a_whole(engine: Engine, verify: Verify) -> None:
    request = dataclasses.replace(REQUEST, task="vary")
    [tokens] = engine.generate([request])
    shown = fit(engine.codec.decode(tokens), (21, 33)).copy()
    status, said, _ = verify(finished(engine, tokens, request, shown))
    assert (status, "693 of 693 compared" in said) == (0, True), said
    shown[0, 0] ^= 128
    assert verify(finished(engine, tokens, request, shown))[0] == 1


@pytest.mark.parametrize("smooth", [False, True])
def test_the_redrawn_part_of_a_composite_is_compared(engine: Engine, verify: Verify, smooth: bool) -> None:
    image, mask = np.full((64, 96, 3), 90, dtype=np.uint8), np.zeros((64, 96), dtype=bool)
    mask[8:60, 20:90] = True
    redrawn = ~fixed_cells(mask, engine.model.grid)
    fixed = fixed_tokens(engine.codec.encode(fit(image, (16, 16))), ~redrawn)
    request = dataclasses.replace(REQUEST, fixed_tokens=fixed, task="inpaint")
    [tokens] = engine.generate([request])
    shown = composite(image, engine.codec.decode(tokens), mask, smooth=smooth)
    status, said, _ = verify(finished(engine, tokens, request, shown))
    assert (status, "1 or more tokens inside" in said) == (3, True), said
    painted = shown.copy()
    painted[20:50, 30:80] = 0
    status, said, _ = verify(finished(engine, tokens, request, painted))
    assert (status, "too many differ" in said) == (1, True), said


def test_a_thin_redrawn_part_is_unchecked(engine: Engine, verify: Verify) -> None:
    known = np.ones((8, 8), dtype=bool)
    known[4] = False
    request = dataclasses.replace(
        REQUEST, fixed_tokens=dict.fromkeys(np.flatnonzero(known).tolist(), 3), task="inpaint"
    )
    [tokens] = engine.generate([request])
    status, said, _ = verify(finished(engine, tokens, request, np.zeros((64, 64, 3), dtype=np.uint8)))
    assert (status, "pixels: none could be compared" in said) == (3, True), said


def test_a_composite_in_colours_of_its_own_is_compared_as_it_is_shown(engine: Engine, verify: Verify) -> None:
    image, mask = np.full((64, 64, 3), 90, dtype=np.uint8), np.zeros((64, 64), dtype=bool)
    mask[:, 20:] = True
    redrawn = ~fixed_cells(mask, engine.model.grid)
    fixed = fixed_tokens(engine.codec.encode(fit(to_srgb(image, P3), (16, 16))), ~redrawn)
    request = dataclasses.replace(REQUEST, fixed_tokens=fixed, task="inpaint")
    [tokens] = engine.generate([request])
    shown = composite(image, from_srgb(engine.codec.decode(tokens), P3), mask)
    text = recipe.text_of(finished(engine, tokens, request, shown)) or ""
    assert verify(encode(shown, "png", text={recipe.KEYWORD: text}, profile=P3))[0] == 3
    assert verify(encode(shown, "png", text={recipe.KEYWORD: text}))[0] == 1
    # A profile changes what a viewer shows, and the digest of the pixels does not tell.
    genuine = drawn(engine, REQUEST)
    tinted = encode(pixels_of(genuine), "png", text={recipe.KEYWORD: recipe.text_of(genuine) or ""}, profile=P3)
    assert verify(tinted)[0] == 1

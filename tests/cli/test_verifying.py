"""`arpg verify`: a picture is drawn again from what it says of itself, and every difference is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.core.engine import Engine
from engine.request import Request
from service.cli.main import main
from service.cli.verify import redraw
from service.jobs.packing import pack_bits, pack_tokens
from service.tasks.pictures import recipe
from service.tasks.pictures.images import encode
from service.tasks.pictures.recipe import forked
from tests.cli.verifying import REQUEST, Verify, drawn, finished, pixels_of, retold


def test_a_picture_as_it_was_drawn_is_the_same(engine: Engine, verify: Verify) -> None:
    status, said, errors = verify(drawn(engine, REQUEST))
    assert (status, errors) == (0, "")
    assert said.splitlines() == [
        "drawn by random: generate, class 2 class 2, seed 9, 8×8 tokens",
        "tokens: all 64 that were drawn are the same",
        "pixels: all are the decoded tokens'",
    ]


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        (Request(class_label=None, seed=1, steps=3), 64),
        (dataclasses.replace(REQUEST, order=tuple(reversed(range(64))), temperature=0.5, top_k=5, task="vary"), 64),
        (dataclasses.replace(REQUEST, fixed_tokens=dict.fromkeys(range(20), 3)), 44),
        (dataclasses.replace(REQUEST, grid=(8, 10), rope_scaling="interpolate", content_attention="causal"), 80),
    ],
    ids=["no class", "every setting", "known", "larger grid"],
)
def test_whatever_was_asked_for_is_drawn_again(engine: Engine, verify: Verify, request_: Request, tokens: int) -> None:
    status, said, _ = verify(drawn(engine, request_))
    assert (status, f"tokens: all {tokens} that were drawn are the same" in said) == (0, True), said


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


def test_a_recipe_decides_what_is_drawn_only_within_bounds(engine: Engine, verify: Verify) -> None:
    file = drawn(engine, REQUEST)
    pixels = pixels_of(file)
    wide: dict[str, Any] = {"grid": [64, 64], "tokens": pack_tokens(np.zeros((64, 64), np.int32)), "known": None}
    for claim, why in [
        (wide, "64×64 tokens; random draws at most 256"),
        ({"windows": [[0, 0]] * 3000}, "3000 windows, and no picture has more than 32"),
        ({"forks": [[5, 1], [2, 1]]}, "a fork at an earlier step than the fork before it"),
    ]:
        status, _, errors = verify(retold(file, pixels, **claim))
        assert (status, why in errors) == (2, True), errors


def test_a_fork_of_many_forks_draws_each_step_once(engine: Engine) -> None:
    """Each ancestor is drawn only as far as its heir shares its steps; the heir replays them."""
    request, forks = dataclasses.replace(REQUEST, steps=64), tuple((step, step) for step in range(1, 64))
    told = recipe.read(recipe.text_of(drawn(engine, request, forks=forks)))
    before = engine.stats().steps_total
    _, steps = redraw(engine, told)
    assert len(steps) == 64
    assert engine.stats().steps_total - before <= 64 * 65 / 2
    assert engine.idle


def test_a_recipe_sends_nothing_to_the_terminal(engine: Engine, verify: Verify) -> None:
    file = drawn(engine, REQUEST)
    for fields in ({"class_name": "\x1b]0;owned\x07\u202e\x9b2J"}, {"model": "a\nb"}, {"a\x1b[2Jb": 1}):
        _, said, errors = verify(retold(file, pixels_of(file), **fields))
        assert all(line.isprintable() for line in (said + errors).splitlines())
    assert verify(retold(file, pixels_of(file), class_name="Ömer's\x1b"))[1].startswith(
        "drawn by random: generate, class 2 Ömer's\ufffd, seed 9"
    )
    for label in (10**4000, -1):
        assert verify(retold(file, pixels_of(file), class_label=label))[0] == 2


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
        (file[: len(file) // 2], "can't be decoded"),
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
    assert "no model here is named random; name its folder with --model" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "nowhere.png")]) == 2
    assert main(["verify", str(path), "--model", str(tmp_path)]) == 2
    assert "the folder has no model.json" in capsys.readouterr().err

"""A picture's recipe comes back as it was written, holds for its own pixels alone, and is never trusted further."""

from __future__ import annotations

import base64
import dataclasses
import json
import random
import subprocess
import sys
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.card import SETTINGS, ModelCard
from engine.request import Request
from service.jobs.spec import MAX_PROMPT
from service.tasks.pictures import recipe
from service.tasks.pictures.images import encode
from service.tasks.pictures.recipe import (
    KEYWORD,
    MAX_TEXT,
    Recipe,
    RecipeError,
    digest,
    forked,
    read,
    text_of,
    tokens_of,
    write,
)
from tests.support.api import CARD, noise

MODEL = dataclasses.replace(CARD, weights="0123456789abcdef", tokenizer="fedcba9876543210")
PIXELS = noise(32, 32)
TOKENS = np.arange(16, dtype=np.int32).reshape(4, 4) % 8
DRAWN = Request(class_label=3, seed=11, steps=5, task="inpaint", fixed_tokens={0: 0, 5: 5})


def written(**fields: Any) -> str:
    return write(fields.pop("pixels", PIXELS), fields.pop("tokens", TOKENS), DRAWN, MODEL, class_name="cone", **fields)


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(written()) | fields)


def reason(text: str | None) -> str:
    with pytest.raises(RecipeError) as caught:
        read(text)
    return str(caught.value)


requests = st.builds(
    Request,
    class_label=st.none() | st.integers(0, 7),
    seed=st.integers(0, 2**63 - 1),
    steps=st.integers(1, 256),
    schedule=st.sampled_from(["arccos", "cosine"]),
    guidance_scale=st.floats(0, 100),
    guidance_interval=st.none() | st.integers(0, 300),
    temperature=st.floats(0, 100),
    top_k=st.integers(0, 2**20),
    top_p=st.floats(0.01, 1),
    content_attention=st.sampled_from(["blockwise", "causal"]),
    order=st.none() | st.permutations(range(12)).map(tuple),
    task=st.sampled_from(["generate", "inpaint", "vary"]),
)
grids = st.tuples(st.integers(1, 20), st.integers(1, 20))


@given(
    requests, grids, st.sampled_from([2, 512, 2**16, 2**16 + 1, 2**30]), st.booleans(), st.integers(0, 99),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=3),
)  # fmt: skip
def test_a_recipe_comes_back_as_it_was_written(
    request: Request, grid: tuple[int, int], codes: int, composited: bool, seed: int, pairs: list[tuple[int, int]]
) -> None:
    rng = np.random.default_rng(seed)
    tokens, known = rng.integers(0, codes, grid, dtype=np.int32), rng.random(grid) < 0.3
    pixels = rng.integers(0, 256, (*grid, 3), dtype=np.uint8)
    text = write(
        pixels, tokens, request, MODEL,
        class_name="Ömer's", known=known, windows=pairs, forks=pairs, composited=composited,
    )  # fmt: skip
    back = read(text_of(encode(pixels, "png", text={KEYWORD: text})))
    assert np.array_equal(back.tokens, tokens)
    assert back.tokens.dtype == np.int32
    assert np.array_equal(back.known, known)
    assert dict(back.sampling) == {name: getattr(request, name) for name in SETTINGS}
    assert (back.task, back.class_label, back.seed) == (request.task, request.class_label, request.seed)
    assert back.rope_scaling == request.rope_scaling
    assert (back.model, back.weights, back.tokenizer) == (MODEL.name, MODEL.weights, MODEL.tokenizer)
    assert (back.class_name, back.composited) == ("Ömer's", composited)
    assert (back.windows, back.forks) == (tuple(pairs), tuple(pairs))
    assert back.is_of(pixels)


@pytest.mark.parametrize("token", [0, 2**16 - 1, 2**16, 2**31 - 1])
def test_a_token_of_any_codebook_comes_back(token: int) -> None:
    assert read(written(tokens=np.full((4, 4), token))).tokens.tolist() == [[token] * 4] * 4


def test_every_field_of_a_request_is_told_or_follows_from_what_is() -> None:
    of_the_canvas, texts = {"fixed_tokens", "replayed_tokens", "grid", "window"}, {"prompt", "negative_prompt"}
    told = set(recipe._OF_REQUEST.values()) | of_the_canvas | texts
    assert {field.name for field in dataclasses.fields(Request)} == told


@given(st.none() | st.text(max_size=MAX_PROMPT), st.none() | st.text(max_size=50))
@example("🐈" * MAX_PROMPT, "🐈" * MAX_PROMPT)
def test_prompts_come_back_as_they_were_written(prompt: str | None, negative: str | None) -> None:
    said = written(prompt=prompt, negative_prompt=negative)
    back = read(text_of(encode(PIXELS, "png", text={KEYWORD: said})))
    assert (back.prompt, back.negative_prompt) == (prompt, negative)
    assert ("prompt" in json.loads(said)) == (prompt is not None), "older readers refuse a field that they don't know"


def test_known_tokens_are_those_of_the_request_unless_said_otherwise() -> None:
    assert np.flatnonzero(read(written()).known).tolist() == [0, 5]
    assert read(written(known=np.eye(4, dtype=bool))).known.sum() == 4


def test_what_means_nothing_to_a_model_is_null() -> None:
    fixed = dataclasses.replace(MODEL, settings=("temperature", "top_k"))
    said = json.loads(write(PIXELS, TOKENS, DRAWN, fixed, class_name=None))
    assert (said["steps"], said["schedule"], said["order"], said["temperature"]) == (None, None, None, 1.0)


def test_a_picture_of_another_kind_has_no_recipe() -> None:
    assert reason(None) == "it carries no recipe"
    for file in (encode(PIXELS, "png"), encode(PIXELS, "jpeg"), b"", b"\x89PNG\r\n\x1a\n", b"arpg"):
        assert text_of(file) is None


LIES: list[tuple[str, str]] = [
    ("", "its text"),
    ("{", "its text"),
    ("[]", "its text"),
    ("[" * 100_000, "its text"),
    ('{"a":' * 50_000, "its text"),
    ("9" * MAX_TEXT, "its text"),
    ("x" * (MAX_TEXT + 1), "longer than 262,144 characters"),
    (changed(version=2), "version"),
    (changed(prompt="x" * 2001), "prompt"),
    (changed(prompt=["x"]), "prompt"),
    (changed(seed=-1), "seed"),
    (changed(seed="7"), "seed"),
    (changed(steps=1.5), "steps"),
    (changed(model=None), "model"),
    (changed(more=1), "more"),
    (changed(**{"a\nb\x1b": 1}), "a field: Extra"),
    (changed(model="a\nb"), "model"),
    (changed(task="\x1b[2J"), "task"),
    (changed(grid=[4]), "grid"),
    (changed(grid=[0, 16]), "grid.0"),
    (changed(grid=[2, 4]), "not of 2×4 tokens"),
    (changed(grid=[4, 5]), "not one of 4×5 tokens"),
    (changed(grid=[65536, 65536]), "65536×65536 tokens; at most 65,536"),
    (changed(tokens="*"), "not base64"),
    (changed(tokens=base64.b64encode(b"no zlib").decode()), "damaged"),
    (changed(tokens=base64.b64encode(zlib.compress(bytes(32))[:-2]).decode()), "not one of 4×4"),
    (changed(tokens=base64.b64encode(zlib.compress(bytes(32)) + b"more").decode()), "not one of 4×4"),
    (changed(tokens=base64.b64encode(zlib.compress(bytes(33))).decode()), "not one of 4×4"),
    (changed(tokens=base64.b64encode(zlib.compress(b"\xff" * 64)).decode()), "beyond any codebook"),
    (changed(known="AAAA"), "fixed tokens are not of 4×4"),
    (changed(known="*"), "not base64"),
    (changed(order=[-1]), "order.0"),
    (changed(windows=[[0, 0, 0]]), "windows"),
    (changed(forks=[[1, 2]] * 65), "forks"),
]


@pytest.mark.parametrize(("text", "why"), LIES, ids=range(len(LIES)))
def test_a_lying_recipe_is_disbelieved_with_a_reason(text: str, why: str) -> None:
    assert why in reason(text)


def test_a_bomb_in_a_recipe_is_not_unpacked() -> None:
    bomb = changed(tokens=base64.b64encode(zlib.compress(bytes(2**27))).decode())
    assert len(bomb) < MAX_TEXT
    tracemalloc.start()
    assert "not one of 4×4" in reason(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


@given(st.integers(0, 10**9))
def test_a_damaged_recipe_is_disbelieved_or_read_but_never_a_crash(seed: int) -> None:
    rng = random.Random(seed)
    text = list(written())
    for _ in range(rng.randint(1, 4)):
        text[rng.randrange(len(text))] = rng.choice(['"', "{", "[", "9", "-", "e", "\\", "\ud800", "\0", "A"])
    try:
        assert isinstance(read("".join(text)), Recipe)
    except RecipeError as error:
        assert str(error)  # noqa: PT017


def test_a_map_is_taken_over_where_the_picture_is_just_what_it_tells_of() -> None:
    said = read(written())

    def taken(recipe: Recipe, pixels: np.ndarray, card: ModelCard) -> np.ndarray:
        return tokens_of(recipe, (pixels.shape[0], pixels.shape[1]), digest(pixels), card)

    assert np.array_equal(taken(said, PIXELS, MODEL), TOKENS)
    wide = read(written(pixels=noise(32, 48), tokens=np.zeros((4, 6), np.int32)))
    assert taken(wide, noise(32, 48), MODEL).shape == (4, 6)

    def refused(*arguments: Any) -> str:
        with pytest.raises(RecipeError) as caught:
            taken(*arguments)
        return str(caught.value)

    edited = PIXELS.copy()
    edited[31, 31, 2] ^= 1
    assert "changed since" in refused(said, edited, MODEL)
    assert "another tokenizer's" in refused(said, PIXELS, dataclasses.replace(MODEL, tokenizer="f" * 16))
    unmarked = dataclasses.replace(MODEL, tokenizer="")
    assert "another tokenizer's" in refused(dataclasses.replace(said, tokenizer=""), PIXELS, unmarked)
    large = noise(64, 64)
    assert "fitted" in refused(read(written(pixels=large)), large, MODEL)
    beyond = read(written(tokens=TOKENS + 1))
    assert "codebook of 8" in refused(beyond, PIXELS, MODEL)


def test_the_same_bytes_in_another_shape_are_another_picture() -> None:
    assert not read(written()).is_of(PIXELS.reshape(16, 64, 3))


def test_a_fork_tells_which_seed_drew_which_steps() -> None:
    assert forked((), 7, 4) == ((4, 7),)
    child = forked((), 7, 4)
    assert forked(child, 8, 9) == ((4, 7), (9, 8))  # a fork of it, later
    assert forked(child, 8, 3) == ((3, 7),)  # earlier: the child's own seed has drawn nothing of it
    assert forked(child, 8, 4) == ((4, 7),)
    assert forked(((4, 7), (9, 8)), 5, 6) == ((4, 7), (6, 8))


def test_reading_needs_no_torch() -> None:
    script = "import sys, service.tasks.pictures.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

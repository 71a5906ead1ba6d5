"""The JobSpec codec: what is written is read again, and what this version does not know is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.editing.outpainting import Padding, outpaint_geometry
from service.jobs.spec import (
    Box,
    ClassCondition,
    ForkOrigin,
    InvalidSpec,
    JobSpec,
    NoCondition,
    OutpaintCompose,
    Output,
    Sampling,
    TextCondition,
    UnsupportedVersion,
    decode,
    encode,
    task_of,
)

GEOMETRY = outpaint_geometry((20, 26), Padding(left=3, right=30), grid=(8, 8), stride=2)


def spec(**fields: Any) -> JobSpec:
    plain: dict[str, Any] = {
        "task": "generate", "model": "m", "condition": NoCondition(), "seeds": (1, 2), "sampling": Sampling(steps=3),
        "grid": (3, 5), "window_shape": (3, 5), "size": (6, 10), "fixed_cells": np.zeros((3, 5), dtype=bool),
        "output": Output(format="png", quality=90, previews=0),
    }  # fmt: skip
    return JobSpec(**plain | fields)


@given(
    fixed=arrays(bool, (3, 5)),
    tokens=arrays(np.int32, (3, 5), elements=st.integers(-1, 2**30)),
    order=st.none() | st.permutations(range(15)).map(tuple),
    seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=16).map(tuple),
)
def test_what_is_written_is_read_again(
    fixed: np.ndarray, tokens: np.ndarray, order: tuple[int, ...] | None, seeds: tuple[int, ...]
) -> None:
    fork = ForkOrigin(job="p", image=1, step=2, seeds=((2, 9),), replayed=tokens)
    written = spec(
        condition=ClassCondition(label=3, name="mouse × trap"), seeds=seeds, sampling=Sampling(order=order),
        windows=((0, 1), (2, 3)), fixed_cells=fixed, picture_box=Box(row=0, col=0, rows=3, cols=5),
        picture_tokens=tokens, compose=OutpaintCompose(geometry=GEOMETRY, seamless=True), fork=fork,
        blobs={"image": "a/image"}, request={"left": 3, "source": None}, digest="d",
    )  # fmt: skip
    read = decode(encode(written))
    assert encode(read) == encode(written)
    assert np.array_equal(read.fixed_cells, fixed)
    assert read.picture_tokens is not None
    assert np.array_equal(read.picture_tokens, tokens)
    assert read.compose == written.compose
    assert read.fork is not None
    assert np.array_equal(read.fork.replayed, tokens)
    assert (read.seeds, read.sampling.order, read.class_name) == (seeds, order, "mouse × trap")


@pytest.mark.parametrize("negative", [None, "fog"])
def test_prompts_are_carried_as_they_were_sent(negative: str | None) -> None:
    text = "  a “purple”\tmug \n 🐈 \\ \u200b"
    written = spec(condition=TextCondition(prompt=text, negative_prompt=negative))
    read = decode(encode(written))
    assert (read.prompt, read.negative_prompt) == (text, negative)
    assert (read.class_label, read.class_name) == (None, None)
    assert encode(read) == encode(written)


def test_a_job_without_prompts_is_written_as_older_workers_read_it() -> None:
    for condition in (NoCondition(), ClassCondition(label=3, name="cone")):
        told = json.loads(encode(spec(condition=condition)))
        assert (told["version"], "prompt" in json.dumps(told)) == (1, False)


@pytest.mark.parametrize(
    ("condition", "sampling", "branches"),
    [
        (NoCondition(), {}, 1),
        (ClassCondition(label=3, name="cone"), {}, 2),
        (TextCondition(prompt="x"), {}, 2),
        (TextCondition(prompt="x"), {"guidance_scale": 2.0, "guidance_interval": 3}, 2),
        (TextCondition(prompt="x"), {"guidance_scale": 1.0}, 1),
        (ClassCondition(label=3, name="cone"), {"guidance_interval": 0}, 1),
    ],
)
def test_guidance_doubles_what_is_drawn(condition: Any, sampling: dict[str, Any], branches: int) -> None:
    assert spec(condition=condition, sampling=Sampling(**sampling)).branches == branches


@pytest.mark.parametrize("version", [0, 2, None, "1", 10**6])
def test_another_version_is_refused_and_never_misread(version: object) -> None:
    text = json.dumps(json.loads(encode(spec())) | {"version": version})
    with pytest.raises(UnsupportedVersion, match=repr(version)):
        decode(text)
    assert task_of(text) == "generate"


@pytest.mark.parametrize(
    "changed",
    [
        {"grid": [5, 3]},
        {"seeds": []},
        {"strange": 1},
        {"fixed_cells": {"shape": [3, 5], "bits": "AAAA"}},
        {"fixed_cells": {"shape": [3, 10**9], "bits": "AAA="}},
        {"fixed_cells": {"shape": [3, -5], "bits": "AAA="}},
        {"fixed_cells": None},
        {"condition": {"type": "text", "text": "a house"}},
        {"condition": {"type": "text", "prompt": None}},
        {"condition": {"type": "sound"}},
        {"picture_tokens": {"shape": [3, 5], "tokens": "no base64"}},
        {"compose": {"type": "outpaint"}},
    ],
)
def test_a_damaged_job_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec):
        decode(json.dumps(json.loads(encode(spec())) | changed))


@pytest.mark.parametrize("text", ["", "x", "[]", "1", "null"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec):
        decode(text)
    assert task_of(text) is None

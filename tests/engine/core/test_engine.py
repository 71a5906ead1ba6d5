"""The engine's interface: add, step, abort, generate, fork, cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import Engine, EngineConfig, Request, RequestError
from engine.core.pages import IntegrityError
from engine.ops.choice import DeviceError
from tests.support.tiny import random_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"))


def load(folder: Path, **config: object) -> Engine:
    options = {"cache_tokens": 2048, "check_every_step": True} | config
    return Engine.load(folder, device="cpu", config=EngineConfig(**options))  # type: ignore[arg-type]


def test_the_same_request_draws_the_same_tokens_and_another_seed_others(folder: Path) -> None:
    engine = load(folder)
    request = Request(class_label=1, seed=5)
    one, again, other = engine.generate([request, request, Request(class_label=1, seed=6)])
    assert one.shape == (8, 8)
    assert one.dtype == np.int32
    assert one.min() >= 0
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.array_equal(load(folder, page_size=4).generate([Request(class_label=1, seed=5)])[0], one)


def test_the_class_decides_the_picture_only_where_there_is_one(folder: Path) -> None:
    first, second, none, unguided = load(folder).generate(
        [
            Request(class_label=0, seed=1),
            Request(class_label=1, seed=1),
            Request(seed=1, guidance_scale=9),
            Request(seed=1, guidance_scale=1),
        ]
    )
    assert not np.array_equal(first, second)
    assert np.array_equal(none, unguided)


def test_known_tokens_are_kept_and_only_the_others_are_drawn(folder: Path) -> None:
    engine = load(folder)
    known = {position: position % 60 for position in range(0, 64, 3)}
    request = Request(class_label=2, seed=1, steps=7, fixed_tokens=known, task="inpaint")
    updates = []
    engine.add(request)
    while not engine.idle:
        updates += engine.step()
    drawn = [position for update in updates for position in update.positions]
    assert sorted(drawn) == [p for p in range(64) if p not in known]
    assert [u.step for u in updates] == list(range(1, 8))
    assert {u.steps for u in updates} == {7}
    assert [u.finished for u in updates] == [False] * 6 + [True]
    assert {u.n_total for u in updates} == {len(drawn)}
    [tokens] = engine.generate([request])
    assert all(tokens.flat[position] == token for position, token in known.items())


def test_inpainting_with_the_pictures_own_seed_does_not_redraw_it(folder: Path) -> None:
    engine = load(folder)
    [picture] = engine.generate([Request(class_label=0, seed=3)])
    known = {p: int(picture.flat[p]) for p in range(32)}
    same_noise = Request(class_label=0, seed=3, fixed_tokens=known)
    [inpainted] = engine.generate([Request(class_label=0, seed=3, fixed_tokens=known, task="inpaint")])
    assert not np.array_equal(inpainted, picture)
    assert not np.array_equal(inpainted, engine.generate([same_noise])[0])


def test_guidance_one_costs_half(folder: Path) -> None:
    engine = load(folder)
    guided, unguided = Request(class_label=0, steps=8), Request(class_label=0, steps=8, guidance_scale=1)
    engine.add(guided)
    engine.step()
    pages = engine.stats().pages_used
    engine.add(unguided)
    engine.step()
    assert engine.stats().pages_used == pages * 3 / 2
    while not engine.idle:
        engine.step()
    before = engine.stats().rows_total
    engine.generate([guided])
    guided_rows = engine.stats().rows_total - before
    rows = engine.stats().rows_total
    engine.generate([unguided])
    assert engine.stats().rows_total - rows == guided_rows / 2


def test_aborted_requests_give_their_pages_back_at_the_next_step(folder: Path) -> None:
    engine = load(folder)
    ids = [engine.add(Request(class_label=0, seed=seed)) for seed in range(4)]
    engine.step()
    used = engine.stats().pages_used
    engine.abort(ids[1])
    engine.abort(ids[1])
    engine.abort(12345)
    assert {update.id for update in engine.step()} == {ids[0], ids[2], ids[3]}
    assert engine.stats().pages_used == used * 3 // 4
    while not engine.idle:
        assert ids[1] not in {update.id for update in engine.step()}
    engine.abort(ids[0])
    assert engine.step() == []
    assert engine.stats().pages_used == 0


@pytest.mark.parametrize("check_every_step", [False, True])
def test_corrupted_books_are_noticed_when_the_engine_falls_idle_or_at_once(
    folder: Path, check_every_step: bool
) -> None:
    engine = load(folder, check_every_step=check_every_step)
    engine.add(Request(class_label=0, steps=4))
    engine.step()
    engine._scheduler.pages.allocate(1)  # a page that no block table lists
    for _ in range(0 if check_every_step else 2):
        engine.step()
    with pytest.raises(IntegrityError):
        engine.step()


def test_only_what_fits_is_admitted_and_the_rest_waits_its_turn(folder: Path) -> None:
    engine = load(folder, cache_tokens=300)
    requests = [Request(class_label=0, seed=seed, steps=5) for seed in range(6)]
    expected = [load(folder).generate([request])[0] for request in requests]
    assert engine.tokens_free == engine.tokens_total
    tokens = engine.generate(requests)
    assert all(np.array_equal(ours, alone) for ours, alone in zip(tokens, expected, strict=True))
    for request in requests:
        engine.add(request)
    engine.step()
    assert engine.stats().waiting > 0
    assert engine.tokens_free == 0


def test_what_can_never_fit_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match="pages of the KV cache"):
        load(folder, cache_tokens=64).add(Request(class_label=0))


def test_one_bad_request_leaves_none_of_them_queued(folder: Path) -> None:
    engine = load(folder)
    with pytest.raises(RequestError, match="class_label"):
        engine.generate([Request(class_label=0), Request(class_label=99)])
    assert engine.idle


def test_a_long_prefill_stalls_nobody(folder: Path) -> None:
    """A request with many fixed tokens is written in pieces; the others draw in every step meanwhile."""
    engine = Engine.load(
        random_folder(folder.parent / "wide", grid=(16, 16)), device="cpu", config=EngineConfig(max_rows=256)
    )
    steady = engine.add(Request(class_label=0, steps=64))
    newcomer = engine.add(Request(class_label=1, fixed_tokens=dict.fromkeys(range(200), 1), steps=4))
    first = 0
    for step in range(1, 10):
        ids = {update.id for update in engine.step()}
        assert steady in ids
        assert engine.stats().rows_last_step <= 256
        if newcomer in ids and not first:
            first = step
    assert first == 4, "201 rows enter 64 a step, the last piece with the first queries"


def test_the_codec_is_the_folders(folder: Path) -> None:
    codec = load(folder).codec
    picture = codec.decode(np.arange(64).reshape(8, 8))
    assert picture.shape == (16, 16, 3)
    assert picture.dtype == np.uint8
    assert codec.encode(picture).shape == (8, 8)
    assert codec.palette().shape == (64, 4, 4, 3)
    with pytest.raises(ValueError, match="whole number of 2-pixel tokens"):
        codec.encode(np.zeros((15, 16, 3), np.uint8))


def test_the_engine_needs_no_web_framework_and_plans_need_no_torch() -> None:
    barred = "import sys; sys.modules.update(dict.fromkeys({}));"
    web = barred.format(["fastapi", "pydantic", "redis", "uvicorn", "httpx", "service"])
    subprocess.run([sys.executable, "-c", web + "from engine import Engine"], check=True)
    plain = barred.format(["torch"])
    plans = "engine.plans.arpg, engine.plans.llamagen, engine.plans.par"
    modules = f"{plans}, engine.core.scheduler, engine.core.pages, engine.noise, engine.card, engine.editing.masks"
    subprocess.run([sys.executable, "-c", plain + f"import {modules}"], check=True)


def test_batch_invariance_is_refused_on_a_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.core.engine.choose_device", torch.device)
    with pytest.raises(DeviceError, match="batch_invariant: works on a CPU only"):
        Engine.load(folder, device="cuda", config=EngineConfig(batch_invariant=True))


def test_a_layer_takes_one_attention_call_however_many_requests(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.ops import launch  # here, because the import compiles functions

    attend, calls = launch.attend, []

    def counted(*arguments: int) -> None:
        calls.append(arguments)
        attend(*arguments)

    monkeypatch.setattr(launch, "attend", counted)
    engine = load(folder)
    for count in (1, 7):
        for seed in range(count):
            engine.add(Request(class_label=1, seed=seed, steps=3))
        engine.step()
        calls.clear()
        engine.step()
        assert len(calls) == 4  # layers, of both halves


def test_the_fingerprint_of_the_weights_tells_their_precision(folder: Path) -> None:
    exact, rounded = load(folder).model, load(folder, dtype=torch.bfloat16).model
    assert rounded.weights == f"{exact.weights}-bfloat16"
    assert rounded.tokenizer == exact.tokenizer

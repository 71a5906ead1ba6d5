"""Texts in the engine: their places among the embeddings, the rows that pictures of one prompt share, and what is
refused."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import engine.core.engine as core
from engine import Engine, EngineConfig, Request, RequestError
from engine.core.pages import IntegrityError
from engine.core.runner import StepLogits
from engine.models.captions import TextRows
from engine.models.checkpoint import CheckpointError
from engine.request import TextFeatures
from engine.text.encoder import features_of
from tests.engine.gpu.fake import FakeDevice
from tests.engine.gpu.test_graphs import graphs_on
from tests.support.tiny import random_folder, random_t5, random_text

ROWS = 12
LONG = Request(prompt=random_text(1, ROWS), guidance_scale=3, seed=1)
SHORT = Request(prompt=random_text(2, 3), guidance_scale=3, seed=2)
NEGATIVE = replace(LONG, negative_prompt=random_text(3, 2), seed=3)


@pytest.fixture(scope="module", params=["llamagen-t2i", "arpg-t2i"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("t2i"), family=request.param, grid=(4, 4), n_layer=2)


def load(folder: Path, **settings: object) -> Engine:
    config = EngineConfig(page_size=4, cache_tokens=1024, batch_invariant=True, check_every_step=True, **settings)  # type: ignore[arg-type]
    return Engine.load(folder, device="cpu", config=config)


def alone(folder: Path, request: Request) -> np.ndarray:
    [tokens] = load(folder).generate([request])
    return tokens


def places(engine: Engine) -> int:
    assert engine._scheduler.texts is not None
    return engine._scheduler.texts.used


def test_pictures_of_one_prompt_share_its_place_and_its_rows_and_others_do_not(folder: Path) -> None:
    engine = load(folder)
    requests = [replace(LONG, seed=seed) for seed in range(3)] + [SHORT, NEGATIVE, replace(LONG, guidance_scale=1)]
    ids = [engine.add(request) for request in requests]
    assert places(engine) == 0, "before they are admitted"
    engine.step()
    assert places(engine) == 3, "LONG's, SHORT's and the negative one"
    drawn = engine.generate([replace(NEGATIVE, seed=9)])
    assert places(engine) == 0
    assert len(ids) == 6
    # LlamaGen's last row decides the first token: each picture computes it itself.
    own = 1 if engine.model.family == "llamagen-t2i" else 0
    assert engine.stats().rows_shared_total == 2 * 2 * (ROWS - own) + (ROWS - own) + (2 - own)
    assert np.array_equal(drawn[0], alone(folder, replace(NEGATIVE, seed=9)))


def test_they_draw_what_they_draw_alone_whatever_the_places(folder: Path) -> None:
    """With two places for texts, and requests that need one or two: those that find none wait, in order."""
    requests = [LONG, SHORT, NEGATIVE, replace(SHORT, seed=7), Request(seed=5), replace(NEGATIVE, seed=8)]
    engine = load(folder, max_running=2)
    ids = [engine.add(request) for request in requests]
    tokens: dict[int, dict[int, int]] = defaultdict(dict)
    limits, most = set(), 0
    while not engine.idle:
        for output in engine.step():
            tokens[output.id] |= dict(zip(output.positions, output.tokens, strict=True))
        limits.add(engine.stats().limit)
        most = max(most, places(engine))
    assert most == 2
    assert "texts" in limits
    for number, request in zip(ids, requests, strict=True):
        assert tokens[number] == dict(enumerate(alone(folder, request).ravel().tolist())), request


def test_a_place_is_free_again_when_the_last_request_leaves_even_aborted(folder: Path) -> None:
    engine = load(folder)
    first, second, waiting = (engine.add(request) for request in (LONG, replace(LONG, seed=4), replace(LONG, seed=5)))
    engine.step()
    engine.abort(first)
    engine.step()
    assert places(engine) == 1
    engine.abort(second)
    engine.abort(waiting)
    engine.step()
    assert (places(engine), engine.idle) == (0, True)
    engine.generate([NEGATIVE])
    assert engine._scheduler.texts is not None
    engine._scheduler.texts.hold(random_text(9, 1))
    with pytest.raises(IntegrityError, match="1 texts have places"):
        engine.check_integrity()


class Streaming(FakeDevice):
    """Knows what is done in its stream, behind the steps that were dispatched before."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = 0

    @contextmanager
    def working(self) -> Iterator[None]:
        self.entered += 1
        yield
        self.entered -= 1

    def in_stream(self, work: Callable[..., None], *arguments: object) -> None:
        assert self.entered, "a step under way may still read what was there"
        work(*arguments)


@pytest.mark.parametrize("graphs", [False, True])
def test_texts_are_written_while_others_are_drawn(folder: Path, graphs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the table that captured graphs read at its address, and into places that were others' before."""
    requests = [replace(one, seed=seed) for seed, one in enumerate([LONG, SHORT, NEGATIVE, Request(), SHORT, LONG])]
    requests += [Request(prompt=random_text(seed, 1 + seed), seed=seed) for seed in range(6)]
    config = EngineConfig(page_size=4, cache_tokens=512, max_running=3, max_rows=64, check_every_step=True)
    expected = [Engine.load(folder, device="cpu", config=config).generate([request])[0] for request in requests]
    if graphs:
        device = Streaming()
        monkeypatch.setattr(core, "runner_on", graphs_on(device))
        write = TextRows.write
        monkeypatch.setattr(TextRows, "write", lambda *arguments: device.in_stream(write, *arguments))
    engine = Engine.load(folder, device="cpu", config=config)
    table = engine._runner.forward_pass.embeddings.data_ptr()
    ids: list[int] = []
    canvases: dict[int, dict[int, int]] = defaultdict(dict)
    pending = list(requests)
    while pending or not engine.idle:
        if pending:
            ids.append(engine.add(pending.pop(0)))
        for output in engine.step():
            canvases[output.id] |= dict(zip(output.positions, output.tokens, strict=True))
    assert engine._runner.forward_pass.embeddings.data_ptr() == table
    for number, tokens in zip(ids, expected, strict=True):
        assert canvases[number] == dict(enumerate(tokens.ravel().tolist()))


@pytest.mark.parametrize("request_", [LONG, NEGATIVE, Request(prompt=random_text(2, 1), guidance_scale=2)])
def test_a_fork_goes_on_from_its_parents_rows(folder: Path, request_: Request) -> None:
    parent = load(folder).generate([request_])[0].ravel()
    engine = load(folder)
    engine.add(request_)
    for _ in range(9):
        engine.step()
    fork = engine.fork(request_, dict(enumerate(parent.tolist())), step=6, seed=45)
    [forked] = engine.generate([fork])
    assert len(fork.replayed_tokens) == 6
    assert all(forked.ravel()[cell] == parent[cell] for cell in fork.replayed_tokens)
    assert (forked.ravel() != parent).any()
    assert engine.stats().rows_shared_total > 0
    assert np.array_equal(forked, alone(folder, fork)), "and the same without the parent"


def test_the_negative_prompt_is_what_guidance_leads_away_from(folder: Path) -> None:
    """Its branch has the logits of a picture of it, whatever the length of the prompt beside it."""
    logits: dict[int, list[torch.Tensor]] = defaultdict(list)

    def watch(step: StepLogits) -> None:
        logits[step.id].append(step.logits)

    config = EngineConfig(batch_invariant=True, cache_tokens=512)
    for one, other in ((1, ROWS), (ROWS, 1), (5, 5)):
        engine = Engine.load(folder, device="cpu", config=config, watch_logits=watch)
        prompt, negative = random_text(10, one), random_text(11, other)
        away = Request(prompt=prompt, negative_prompt=negative, guidance_scale=0, temperature=0)
        [tokens] = engine.generate([replace(away, guidance_schedule="constant")])
        [plain] = engine.generate([Request(prompt=negative, guidance_scale=1, temperature=0)])
        assert np.array_equal(tokens, plain), "a scale of 0 draws the unconditional branch"
        assert all(torch.equal(both[1], single[0]) for both, single in zip(logits[0], logits[1], strict=True))
        logits.clear()


def wrong(rows: np.ndarray) -> TextFeatures:
    return TextFeatures(rows, "digest")


@pytest.mark.parametrize(
    ("field", "says", "request_"),
    [
        ("class_label", "draws from text; give prompt", Request(class_label=0)),
        ("prompt", "must be TextFeatures", Request(prompt="a mug")),  # type: ignore[arg-type]
        ("prompt", "13 rows of width 8; this model takes 1 to 12", Request(prompt=random_text(0, 13))),
        ("prompt", "takes 1 to 12 rows of width 8", Request(prompt=features_of(np.zeros((0, 8))))),
        ("prompt", "2 rows of width 9", Request(prompt=random_text(0, 2, 9))),
        ("prompt", "float32", Request(prompt=wrong(np.zeros((2, 8))))),
        ("prompt", "NaN", Request(prompt=features_of(np.full((2, 8), np.nan)))),
        ("negative_prompt", "needs a prompt", Request(negative_prompt=random_text(0, 2))),
        ("negative_prompt", "needs guidance", replace(NEGATIVE, guidance_scale=1)),
        ("negative_prompt", "needs guidance", replace(NEGATIVE, guidance_interval=0)),
    ],
)
def test_what_a_text_model_can_not_draw_is_refused_by_name(
    folder: Path, field: str, says: str, request_: Request
) -> None:
    with pytest.raises(RequestError, match=f"^{field}: .*{says}"):
        load(folder).add(request_)


def test_the_card_says_that_it_takes_text_and_what_that_caches(folder: Path) -> None:
    card = load(folder).model
    assert (card.conditioning, card.classes) == ("text", ())
    assert (card.condition_rows, card.cached_rows(16)) == (ROWS, ROWS + 15)
    assert type(card).from_json(card.to_json()) == card


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("prompt", LONG),
        ("negative_prompt", replace(SHORT, negative_prompt=LONG.prompt)),
        ("prompt", replace(LONG, negative_prompt=SHORT.prompt)),
    ],
)
def test_a_text_that_does_not_fit_the_cache_is_refused_with_the_length_that_does(
    folder: Path, field: str, request_: Request
) -> None:
    engine = Engine.load(folder, device="cpu", config=EngineConfig(page_size=4, cache_tokens=48))
    with pytest.raises(RequestError, match=f"^{field}: has 12 tokens, .* 14 pages .* has 12 in all; at most 9 tokens"):
        engine.add(replace(request_, steps=16))
    engine.generate([Request(prompt=random_text(5, 9), guidance_scale=3, steps=16)])
    tiny = Engine.load(folder, device="cpu", config=EngineConfig(page_size=4, cache_tokens=16))
    with pytest.raises(RequestError, match=r"^model: needs 14 pages"):
        tiny.add(replace(request_, steps=16))


def test_a_cpu_has_room_for_a_guided_picture_of_any_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "CPU_CACHE_BYTES", 1)
    engine = Engine.load(folder, device="cpu")
    assert engine.tokens_total == 2 * 32
    engine.generate([LONG])


@pytest.mark.parametrize("family", ["llamagen-t2i", "arpg-t2i"])
def test_a_prompt_is_drawn_from_the_features_of_the_models_own_encoder(tmp_path: Path, family: str) -> None:
    """Of a prompt that is longer than the transformer takes, the encoder reads as much as fits."""
    engine = load(random_folder(tmp_path / "m", family=family, grid=(4, 4), text_rows=6, text_encoder=True))
    encoder = engine.text_encoder
    assert encoder is not None
    prompts = [encoder.encode(text) for text in ("a red cube", "a green mug on the floor next to a yellow cone")]
    assert [len(prompt.rows) for prompt in prompts] == [4, 6]
    one, other = engine.generate([Request(prompt=prompt, temperature=0) for prompt in prompts])
    assert not np.array_equal(one, other)


def test_the_fingerprint_of_the_weights_tells_the_encoder(tmp_path: Path) -> None:
    """Another encoder makes other pictures of the same prompt."""
    folder = random_folder(tmp_path / "m", family="llamagen-t2i", grid=(4, 4), text_encoder=True)
    before = load(folder).model
    random_t5(folder / "t5", width=8, seed=1)
    after = load(folder).model
    assert before.weights != after.weights
    assert before.tokenizer == after.tokenizer


def test_an_encoder_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    def described(family: str, **change: object) -> Path:
        folder = random_folder(tmp_path / str(len(list(tmp_path.iterdir()))), family=family)
        description = json.loads((folder / "model.json").read_text()) | change
        (folder / "model.json").write_text(json.dumps(description))
        return folder

    entry = {name: f"../t5/{file}" for name, file in random_t5(tmp_path / "t5", width=24).items()}
    for folder, says in (
        (described("llamagen-t2i", text_encoder=entry), "its rows are 24 wide, and the transformer takes .* width 8"),
        (described("llamagen-t2i", text_encoder={"weights": "t5"}), "missing or unknown: .'config', 'tokenizer'"),
        (described("llamagen", text_encoder=entry), "this family takes classes; leave it out"),
    ):
        with pytest.raises(CheckpointError, match=rf"model\.json: text_encoder: .*{says}"):
            load(folder)

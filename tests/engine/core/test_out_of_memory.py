"""A step for which the device has no memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import Engine, EngineConfig, Request
from engine.core.runner import DrawnTokens
from engine.core.sequence import SequenceState
from engine.request import EMPTY
from tests.support.tiny import random_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"))


def load(folder: Path) -> Engine:
    return Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=2048, check_every_step=True))


def test_a_request_that_does_not_fit_into_memory_is_given_up_and_spares_the_others(folder: Path) -> None:
    engine = load(folder)
    requests = [Request(class_label=1, seed=seed, steps=4) for seed in range(5)]
    expected = engine.generate([request for request in requests if request.seed != 3])
    run = engine._runner.run

    def without_memory(sequences: Sequence[SequenceState]) -> DrawnTokens:
        if any(sequence.request.seed == 3 for sequence in sequences):
            raise torch.OutOfMemoryError("no room")
        return run(sequences)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._runner, "run", without_memory)
        ids = [engine.add(request) for request in requests]
        canvases = {id: np.full(expected[0].size, EMPTY) for id in ids}
        errors = {}
        while not engine.idle:
            for output in engine.step():
                canvases[output.id][list(output.positions)] = output.tokens
                if output.error is not None:
                    errors[output.id] = output.error
    assert [type(error) for error in errors.values()] == [torch.OutOfMemoryError]
    assert errors.keys() == {ids[3]}
    for id, tokens in zip([*ids[:3], ids[4]], expected, strict=True):
        assert np.array_equal(canvases[id], tokens.ravel())
    assert engine.stats().pages_used == 0


def test_a_step_that_does_not_fit_into_memory_is_divided(folder: Path) -> None:
    engine = load(folder)
    requests = [Request(class_label=1, seed=seed, steps=4) for seed in range(5)]
    expected = engine.generate(requests)
    run = engine._runner.run
    most: list[int] = []

    def with_room_for_two(sequences: Sequence[SequenceState]) -> DrawnTokens:
        if len(sequences) > 2:
            raise torch.OutOfMemoryError("no room")
        most.append(len(sequences))
        return run(sequences)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._runner, "run", with_room_for_two)
        found = engine.generate(requests)
    assert all(map(np.array_equal, found, expected))
    assert max(most) == 2

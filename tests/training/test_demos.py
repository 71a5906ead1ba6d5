"""What is said of the shipped models in one place."""

from __future__ import annotations

import json
from pathlib import Path

from engine.training.demos import CLASSIFIER, DEMO, DEMOS, WEIGHTS, classifier_of
from engine.training.world.scenes.captions import WORD, vocabulary


def test_a_model_is_measured_with_its_own_classifier_or_else_with_demos(tmp_path: Path) -> None:
    assert classifier_of(WEIGHTS / "demo-text") == DEMO / CLASSIFIER
    assert classifier_of(DEMO).is_file()
    own = tmp_path / CLASSIFIER
    own.touch()
    assert classifier_of(tmp_path) == own


def test_the_example_prompts_of_demo_text_have_words_that_it_knows() -> None:
    shipped = json.loads((WEIGHTS / "demo-text" / "model.json").read_text())["example_prompts"]
    assert shipped == DEMOS["arpg-t2i"]["example_prompts"]
    assert {word for prompt in shipped for word in WORD.findall(prompt)} <= set(vocabulary())

"""What is said of the shipped models in one place."""

from __future__ import annotations

from pathlib import Path

from engine.training.demos import CLASSIFIER, DEMO, WEIGHTS, classifier_of


def test_a_model_is_measured_with_its_own_classifier_or_else_with_demos(tmp_path: Path) -> None:
    assert classifier_of(WEIGHTS / "demo-text") == DEMO / CLASSIFIER
    assert classifier_of(DEMO).is_file()
    own = tmp_path / CLASSIFIER
    own.touch()
    assert classifier_of(tmp_path) == own

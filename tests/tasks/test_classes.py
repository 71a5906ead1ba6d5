"""Which class a request means: by label, name, synonym or WordNet id, and what it is told when that is unclear."""

from __future__ import annotations

from collections import defaultdict

import pytest

from engine.card import ClassLabel, class_labels
from engine.models.model_index import shared_classes
from service.errors import Problem
from service.tasks.sampling import find_class

IMAGENET = class_labels(shared_classes("imagenet"))
NAMESAKES = (ClassLabel(0, "crane"), ClassLabel(1, "Crane", ("digger",)), ClassLabel(2, "digger"), ClassLabel(3, "7"))


def label(wanted: int | str, classes: tuple[ClassLabel, ...] = IMAGENET) -> int:
    found = find_class(wanted, classes, "hand")
    assert found is not None
    return found.label


def refusal(wanted: int | str, classes: tuple[ClassLabel, ...] = IMAGENET) -> tuple[str, str]:
    """The code and the message."""
    with pytest.raises(Problem) as caught:
        find_class(wanted, classes, "hand")
    [error] = caught.value.errors
    assert (caught.value.status, error.field) == (422, "class")
    return error.code, error.message


@pytest.mark.parametrize("wanted", [0, "0", "tench", "Tinca tinca", "n01440764", " TENCH ", "tinca_tinca", "N01440764"])
def test_a_class_of_imagenet_goes_by_label_name_synonym_and_wordnet_id(wanted: int | str) -> None:
    assert label(wanted) == 0


def test_every_name_and_id_of_imagenet_means_its_class() -> None:
    for each in IMAGENET:
        assert {label(each.label), label(each.name), label(each.wordnet_id or "")} == {each.label}


def test_a_synonym_means_one_class_or_is_refused_with_all_that_it_may_mean() -> None:
    holders = defaultdict(set)
    for each in IMAGENET:
        for word in (each.name, *each.synonyms):
            holders[word.casefold()].add(each)
    names = {each.name.casefold() for each in IMAGENET}
    shared = {word: meant for word, meant in holders.items() if len(meant) > 1 and word not in names}
    assert {"crane", "cardigan", "maillot", "panda", "horn"} < shared.keys()
    for word, meant in shared.items():
        code, message = refusal(word)
        assert code == "ambiguous_class"
        assert all(f"{each.name} (label {each.label}, {each.wordnet_id})" in message for each in meant)
    for word in holders.keys() - shared.keys() - names:
        [only] = holders[word]
        assert label(word) == only.label


def test_a_name_that_may_mean_two_classes_is_refused_with_both() -> None:
    assert refusal("Crane") == (
        "ambiguous_class",
        "crane may mean crane bird (label 134, n02012849) or construction crane (label 517, n03126707); say which by "
        "name, label or WordNet id",
    )
    assert (label("crane bird"), label("construction crane"), label("n03126707")) == (134, 517, 517)
    assert refusal("crane", NAMESAKES) == (
        "ambiguous_class", "crane may mean crane (label 0) or Crane (label 1); say which by label"
    )  # fmt: skip
    assert [label(number, NAMESAKES) for number in (0, "1")] == [0, 1]


def test_a_name_comes_before_another_class_synonym_and_before_a_label() -> None:
    assert (label("digger", NAMESAKES), label("7", NAMESAKES)) == (2, 3)
    assert label("harp") == 594  # a synonym of harmonica too


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("tensh", "the model has no such class; the nearest are tench, "),
        ("goldfsh", "the model has no such class; the nearest are goldfish, "),
        ("golden retreiver", "golden retriever, "),
        ("n99999999", "no class with the WordNet id n99999999; its classes are those under /v1/models/"),
        ("xqzwv", "the model has no such class; its classes are those under /v1/models/"),
        ("1000", "there is no class 1000; labels run from 0 to 999"),
        (-1, "there is no class -1; labels run from 0 to 999"),
    ],
)
def test_an_unknown_class_is_told_in_a_sentence(wanted: int | str, says: str) -> None:
    code, message = refusal(wanted)
    assert code == "unknown_class"
    assert says in message


def test_the_last_of_several_near_names_follows_an_and() -> None:
    three = tuple(ClassLabel(n, name) for n, name in enumerate(("cone", "cones", "icecone")))
    assert refusal("conee", three[:1])[1] == "the model has no such class; the nearest is cone"
    assert refusal("conee", three[:2])[1] == "the model has no such class; the nearest are cone and cones"
    assert refusal("icone", three)[1].endswith("the nearest are cone, icecone and cones")

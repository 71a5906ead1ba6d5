"""`make imagenet-names`: the names of ImageNet's 1,000 classes, from the lists in the package timm.

timm has the WordNet ids in the order of the labels, and the words of each id, which WordNet calls lemmas. Some classes
share their first word with another one; here every name is unique, so that a name says which class is meant.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engine.models.model_index import CLASSES, WEIGHTS

IDS = "data/_info/imagenet_synsets.txt"
LEMMAS = "data/_info/imagenet_synset_to_lemma.txt"

OWN_NAMES = {
    "n02012849": "crane bird",
    "n03126707": "construction crane",
    "n02963159": "cardigan sweater",
    "n03710637": "maillot tights",
}
"""Names of ours, after WordNet's definitions, for classes whose lemmas don't tell them from another class."""


def classes_of(ids: Sequence[str], lemmas: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """The classes as a model.json lists them. The name is the first lemma; if two classes have the same, it is ours, or
    else a lemma that no other class has. Raises ValueError when there is no such name."""
    first = Counter(lemmas[each][0].casefold() for each in ids)
    all_lemmas = Counter(lemma.casefold() for each in ids for lemma in lemmas[each])
    classes: list[dict[str, Any]] = []
    for label, wordnet_id in enumerate(ids):
        words = lemmas[wordnet_id]
        name = words[0]
        if first[name.casefold()] > 1:
            own = [word for word in words if all_lemmas[word.casefold()] == 1]
            name = OWN_NAMES.get(wordnet_id) or next(iter(own), "")
        if not name:
            raise ValueError(f"{wordnet_id} ({', '.join(words)}) shares every lemma with another class: name it")
        synonyms = [word for word in words if word != name]
        classes.append({"label": label, "name": name, "synonyms": synonyms, "wordnet_id": wordnet_id})
    if len({each["name"].casefold() for each in classes}) < len(classes):
        raise ValueError("two classes have the same name")
    return classes


def read(timm: Path | zipfile.Path) -> list[dict[str, Any]]:
    """timm: the package's folder, or that folder in a wheel."""
    ids = (timm / IDS).read_text(encoding="utf-8").split()
    lines = (timm / LEMMAS).read_text(encoding="utf-8").splitlines()
    return classes_of(ids, {key: words.split(", ") for key, _, words in (line.partition("\t") for line in lines)})


def text(classes: Sequence[Mapping[str, Any]]) -> str:
    """The file's content: JSON with a line for each class, so that changes can be read."""
    rows = ",\n".join(f"  {json.dumps(each)}" for each in classes)
    return f'{{\n "licences": "LICENCES.md",\n "classes": [\n{rows}\n ]\n}}\n'


def located(package: Path | None) -> Path | zipfile.Path:
    """package: a wheel, or the folder that the package is in; None: where it is installed. Raises FileNotFoundError."""
    if package is None:
        spec = find_spec("timm")  # does not import it: that would need torchvision
        if spec is None or spec.origin is None:
            raise FileNotFoundError("timm is not installed: give the path of its wheel")
        return Path(spec.origin).parent
    return zipfile.Path(package, "timm/") if package.suffix == ".whl" else package / "timm"


def main() -> None:
    parser = argparse.ArgumentParser("python -m engine.models.imagenet", description=__doc__)
    parser.add_argument("package", type=Path, nargs="?", help="a wheel of timm, or the folder that the package is in")
    parser.add_argument("--output", type=Path, default=WEIGHTS / "imagenet" / CLASSES)
    options = parser.parse_args()
    try:
        classes = read(located(options.package))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        parser.error(f"{type(error).__name__}: {error}")
    options.output.write_text(text(classes), encoding="utf-8")
    print(options.output)


if __name__ == "__main__":
    main()

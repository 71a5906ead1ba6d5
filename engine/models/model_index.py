"""Models by name: the shipped ones, and public ones whose weights are on the Hugging Face Hub.

Each is a model folder under weights/; that of a public model holds only a model.json. The class names that public
models share lie there too. Imports no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

WEIGHTS = Path(__file__).parents[1] / "weights"
CLASSES = "classes.json"
HUB = "hub:"
# Owner, name, revision, path: hub:owner/name/folder/file.pt, hub:owner/name@v1/file.pt.
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
REFERENCE = re.compile(rf"{HUB}({NAME}/{NAME})(?:@({NAME}))?/({NAME}(?:/{NAME})*)")


FIELDS = frozenset({
    "name", "family", "description", "licence", "grid", "weights", "sha256", "transformer", "tokenizer", "classes",
    "text", "text_encoder", "example_prompts", "regions", "first_cell", "defaults", "task_defaults", "palette",
    "parameters", "bytes",
})  # fmt: skip
"""What a model.json may have; the last two are for lists of models."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository on the hub. revision: a branch, a tag or a commit; None: main."""

    repository: str
    path: str
    revision: str | None = None

    @classmethod
    def parse(cls, reference: str) -> HubFile:
        """Raises ValueError unless the reference is hub:owner/name/file or hub:owner/name@revision/file."""
        found = REFERENCE.fullmatch(reference)
        if found is None:
            raise ValueError(f"{reference!r} does not read hub:owner/name/file or hub:owner/name@revision/file")
        return cls(found[1], found[3], found[2])

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{HUB}{self.repository}{revision}/{self.path}"


def weights_of(folder: Path, entry: Mapping[str, Any]) -> HubFile | Path:
    """The file that "weights" of a model.json or of its tokenizer names: on the hub, or in the folder."""
    reference = entry["weights"]
    return HubFile.parse(reference) if reference.startswith(HUB) else folder / reference


def on_disk(weights: HubFile | Path) -> Path | None:
    """The path of the file, without network access; None when it is missing or would have to be fetched."""
    if isinstance(weights, Path):
        return weights if weights.is_file() else None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ModuleNotFoundError:
        return None
    found = try_to_load_from_cache(weights.repository, weights.path, revision=weights.revision)
    return Path(found) if isinstance(found, str) else None


def known_folders() -> dict[str, Path]:
    """Name → model folder."""
    return {path.parent.name: path.parent for path in sorted(WEIGHTS.glob("*/model.json"))}


def shared_classes(name: str) -> list[dict[str, Any]]:
    """The classes that a model.json means by "classes": "imagenet". Raises ValueError when no list has this name."""
    lists = {path.parent.name: path for path in sorted(WEIGHTS.glob(f"*/{CLASSES}"))}
    if name not in lists:
        raise ValueError(f"classes: {name!r} is no list of classes; there is {', '.join(lists)}")
    classes: list[dict[str, Any]] = json.loads(lists[name].read_text(encoding="utf-8"))["classes"]
    return classes


def description(folder: Path) -> dict[str, Any]:
    """The folder's model.json. Raises OSError or ValueError when it can't be read."""
    data: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return data


def check_known(data: Iterable[str], known: Iterable[str], place: str = "") -> None:
    """Raises ValueError for a name that is not known. place: the entry that holds the names; empty: the file itself."""
    names = sorted(known)
    for name in data:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"it may have {', '.join(names)}"
            raise ValueError(f"{place}: there is no {name}; {remedy}" if place else f"there is no {name}; {remedy}")


def record(kind: type[T], data: dict[str, Any], place: str) -> T:
    """A record from an entry. Raises ValueError for names that the record does not have, and for missing ones."""
    known = signature(kind).parameters
    check_known(data, known, place)
    if missing := [name for name, one in known.items() if one.default is one.empty and name not in data]:
        raise ValueError(f"{place}: it lacks {', '.join(missing)}")
    return kind(**data)

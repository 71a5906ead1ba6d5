"""Model cards: what a model is and can do, as plain data. Workers send them to the API, which shows them to users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

SETTINGS = (
    "steps",
    "schedule",
    "guidance_scale",
    "guidance_schedule",
    "guidance_interval",
    "content_attention",
    "temperature",
    "top_k",
    "top_p",
    "order",
)
"""The sampling fields of a request; a family supports all or some of them."""


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """wordnet_id: of an ImageNet class, such as n01440764."""

    label: int
    name: str
    synonyms: tuple[str, ...] = ()
    wordnet_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Without what it does not have: a worker card holds a thousand of these for a model of ImageNet."""
        data: dict[str, Any] = {"label": self.label, "name": self.name}
        if self.synonyms:
            data["synonyms"] = list(self.synonyms)
        if self.wordnet_id is not None:
            data["wordnet_id"] = self.wordnet_id
        return data


@dataclass(frozen=True, slots=True)
class Defaults:
    """Sampling defaults of a model; a field that is not among its settings is ignored."""

    steps: int = 64
    schedule: str = "arccos"
    guidance_scale: float = 4.0
    guidance_schedule: str = "linear"
    guidance_interval: int | None = None
    content_attention: str = "blockwise"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """grid: token rows and columns. stride: pixels on a side of a token. tasks: the tasks that the model can do.
    task_defaults: for a task whose defaults differ, those that do, by name.
    settings: the sampling fields that it supports. conditioning: what a request says to draw; a model that takes text
    has no classes. condition_rows: rows of KV cache that a condition takes at most. example_prompts: of a model that
    takes text, prompts that it draws well. steps: forward steps of a picture; None: the request says.
    weights, tokenizer: fingerprints of the files, those of the text encoder among the weights; a picture's recipe names
    them. Weights that are not computed with in float32 have the precision behind the fingerprint, because they draw
    other pictures."""

    name: str
    family: str
    grid: tuple[int, int]
    stride: int
    codebook_size: int
    classes: tuple[ClassLabel, ...]
    tasks: tuple[str, ...]
    defaults: Defaults
    task_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    settings: tuple[str, ...] = SETTINGS
    conditioning: Literal["class", "text"] = "class"
    condition_rows: int = 1
    example_prompts: tuple[str, ...] = ()
    steps: int | None = None
    licence: str = ""
    description: str = ""
    weights: str = ""
    tokenizer: str = ""

    @property
    def positions(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def height(self) -> int:
        return self.grid[0] * self.stride

    @property
    def width(self) -> int:
        return self.grid[1] * self.stride

    def defaults_of(self, task: str) -> Defaults:
        return replace(self.defaults, **self.task_defaults.get(task, {}))

    def cached_rows(self, cells: int) -> int:
        """Rows of KV cache that a branch takes at most for a picture of so many cells; the last token is not cached."""
        return self.condition_rows + cells - 1

    def to_json(self) -> dict[str, Any]:
        # asdict takes ten times as long for a thousand classes.
        data = asdict(replace(self, classes=())) | {"classes": [each.to_json() for each in self.classes]}
        if self.conditioning == "class":
            del data["conditioning"], data["condition_rows"]  # servers that know no other models refuse these
        if not self.task_defaults:
            del data["task_defaults"]  # likewise
        if not self.example_prompts:
            del data["example_prompts"]  # likewise
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ModelCard:
        """Fields that only a newer version has are passed over."""
        known = {known.name for known in fields(cls)}
        rows, cols = data["grid"]
        return cls(
            **{name: value for name, value in data.items() if name in known}
            | {
                "grid": (rows, cols),
                "classes": class_labels(data["classes"]),
                "tasks": tuple(data["tasks"]),
                "settings": tuple(data.get("settings", SETTINGS)),
                "example_prompts": tuple(data.get("example_prompts", ())),
                "defaults": Defaults(**data["defaults"]),
            }
        )


def class_labels(data: list[dict[str, Any]]) -> tuple[ClassLabel, ...]:
    return tuple(ClassLabel(c["label"], c["name"], tuple(c.get("synonyms", ())), c.get("wordnet_id")) for c in data)

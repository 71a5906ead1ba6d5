"""From a JobSpec to engine requests, and from drawn tokens to the finished PNG."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from engine.editing.windows import WindowedGeneration
from engine.request import EMPTY, Request, TextFeatures, Window
from service.jobs.result import JobWarning
from service.jobs.spec import JobSpec, NoCondition
from service.tasks.pictures import recipe
from service.tasks.pictures.images import encode
from service.tasks.registry import TASKS
from service.tasks.task import Inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.card import ModelCard
    from engine.text.encoder import ReadPrompt, TextEncoder

    Fork = Callable[[Request, Mapping[int, int], int, int], Request]


PNG_LEVEL = 4
"""Half the time of level 6, and files 4 % larger."""


MOST_QUOTED, MOST_WORDS = 100, 10
"""How much of a prompt a warning repeats: characters in one piece, and words."""


@dataclass(frozen=True, slots=True)
class FinishedPicture:
    png: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class EncodedPrompts:
    """A job's prompts, as the model reads them. None: the job has none."""

    prompt: TextFeatures | None = None
    negative_prompt: TextFeatures | None = None

    @property
    def rows(self) -> int:
        return sum(len(each.rows) for each in (self.prompt, self.negative_prompt) if each is not None)


NO_PROMPTS = EncodedPrompts()


def encode_prompts(spec: JobSpec, encoder: TextEncoder | None) -> tuple[EncodedPrompts, tuple[JobWarning, ...]]:
    """Blocks while the encoder computes. Raises RequestError with the field whose text the encoder can't read."""
    encoded: dict[str, TextFeatures] = {}
    warnings: list[JobWarning] = []
    for field in ("prompt", "negative_prompt"):
        text: str | None = getattr(spec, field)
        if text is None:
            continue
        assert encoder is not None, "the service loads no model of texts without its encoder"
        encoded[field] = encoder.encode(text, field)
        warnings += _warnings(field, encoder.read(text, field))
    return EncodedPrompts(**encoded), tuple(warnings)


def _warnings(field: str, read: ReadPrompt) -> Iterator[JobWarning]:
    name = field.replace("_", " ")
    if read.dropped:
        message = f"the model reads plain English, and not all words of the {name}: {_listed(read.dropped)}"
        yield JobWarning(field=field, code="dropped_words", message=message)
    if read.unread:
        message = f"the {name} is too long; the model does not read its end: {_quoted(read.unread)}"
        yield JobWarning(field=field, code="truncated", message=message)
    if read.unknown:
        message = f"the model does not know some words of the {name}: {_listed(read.unknown)}"
        yield JobWarning(field=field, code="unknown_words", message=message)


def _listed(words: tuple[str, ...]) -> str:
    more = f" and {len(words) - MOST_WORDS} more" if len(words) > MOST_WORDS else ""
    return ", ".join(map(_quoted, words[:MOST_WORDS])) + more


def _quoted(text: str) -> str:
    return f"“{text if len(text) <= MOST_QUOTED else text[: MOST_QUOTED - 1] + '…'}”"


def requests(spec: JobSpec, card: ModelCard, prompts: EncodedPrompts = NO_PROMPTS) -> list[Request]:
    """The engine's request of each picture, without its fixed tokens. prompts: as `encode_prompts` made them."""
    assert (prompts.prompt is None) == (spec.prompt is None), "the job's prompt is not encoded"
    settings = {name: value for name, value in spec.sampling if value is not None}
    if spec.rope_scaling is not None:
        settings["rope_scaling"] = spec.rope_scaling
    grid = None if spec.grid == card.grid else spec.grid
    return [
        Request(
            class_label=spec.class_label,
            prompt=prompts.prompt,
            negative_prompt=prompts.negative_prompt,
            seed=seed,
            task=spec.task,
            grid=grid,
            **settings,
        )
        for seed in spec.seeds
    ]


def steps_of(spec: JobSpec, card: ModelCard) -> int:
    """In how many steps each picture is drawn, whatever it shows."""
    if card.steps is not None:
        return card.steps
    canvas = np.where(spec.fixed_cells, 0, EMPTY).astype(np.int32)
    plain = spec.model_copy(update={"condition": NoCondition()})
    return generation(plain, canvas, requests(plain, card)[0]).steps


def fork_requests(
    spec: JobSpec, canvas: np.ndarray, card: ModelCard, fork: Fork, prompts: EncodedPrompts = NO_PROMPTS
) -> list[Request]:
    """As `requests`; a fork's replay what its parent had drawn. fork: the engine's."""
    own = requests(spec, card, prompts)
    if spec.fork is None:
        return own
    flat = spec.fork.replayed.ravel()
    drawn = {int(cell): int(flat[cell]) for cell in np.flatnonzero(flat != EMPTY)}
    fixed = {int(cell): int(canvas.flat[cell]) for cell in np.flatnonzero(canvas != EMPTY)}
    # The first ancestor's seed decided the order that all its descendants go by.
    step, ancestor = spec.fork.seeds[-1][0], spec.fork.seeds[0][1]
    return [fork(replace(request, fixed_tokens=fixed, seed=ancestor), drawn, step, request.seed) for request in own]


def generation(spec: JobSpec, canvas: np.ndarray, request: Request) -> WindowedGeneration:
    """The chain of engine requests that draws one picture on a canvas int32 grid."""
    corners = spec.windows or ((0, 0),)
    windows = tuple(Window(row, col, spec.grid[1]) for row, col in corners)
    return WindowedGeneration(request, canvas, windows, spec.window_shape)


def finish(
    spec: JobSpec, request: Request, tokens: np.ndarray, drawn: np.ndarray, *, inputs: Inputs, card: ModelCard
) -> FinishedPicture:
    """The finished picture, as a lossless PNG that carries its recipe. tokens: the full map int (rows, cols). drawn:
    uint8 (H, W, 3), what they decode to. request: as `requests` made it."""
    shown = TASKS[spec.task].compose(spec, inputs, drawn)
    text = recipe.write(
        shown,
        tokens,
        request,
        card,
        class_name=spec.class_name,
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        known=spec.fixed_cells,
        windows=spec.windows,
        forks=() if spec.fork is None else spec.fork.seeds,
        composited=shown is not drawn,
    )
    profile = None if shown is drawn else inputs.profile
    png = encode(shown, "png", level=PNG_LEVEL, text={recipe.KEYWORD: text}, profile=profile)
    return FinishedPicture(png, width=shown.shape[1], height=shown.shape[0])

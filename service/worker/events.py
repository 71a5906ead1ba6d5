"""What each event of a job holds. The client receives all but `completed` as they are made here.

The queue makes `queued` itself, and `canceled` and `failed` of jobs that no worker draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.request import RequestError
from service.jobs import BlobStoreFull
from service.jobs.result import JobWarning, StoredImage
from service.tasks.pictures.inputs import BadUpload
from service.worker.engine_thread import EngineFailed

if TYPE_CHECKING:
    from engine.card import ModelCard
    from engine.request import StepOutput

EventData = dict[str, Any]


@dataclass(slots=True)
class TokensEvent:
    """`tokens`: cells of a picture that were drawn, and their tokens. step counts from 1; n_done and n_total count
    cells."""

    image_index: int
    step: int
    steps: int
    positions: list[int]
    tokens: list[int]
    n_done: int
    n_total: int

    @classmethod
    def of(cls, image_index: int, output: StepOutput, *, steps: int) -> TokensEvent:
        positions, tokens = list(output.positions), list(output.tokens)
        return cls(image_index, output.step, steps, positions, tokens, output.n_done, output.n_total)

    def merge(self, later: TokensEvent) -> None:
        self.step, self.n_done = later.step, later.n_done
        self.positions += later.positions
        self.tokens += later.tokens

    def data(self) -> EventData:
        return {name: getattr(self, name) for name in self.__slots__}


def started(
    *,
    attempt: int,
    images: int,
    grid: tuple[int, int],
    steps: int,
    known: int,
    kept: Iterable[int],
    card: ModelCard,
) -> EventData:
    """images: how many. known: the number of fixed tokens. kept: indices of pictures that an earlier attempt finished
    with the same model. card: of the model, for forks of pictures that are not finished."""
    return {
        "attempt": attempt,
        "images": images,
        "grid": list(grid),
        "steps": steps,
        "known": known,
        "kept": sorted(kept),
        "tokenizer": card.tokenizer,
        "weights": card.weights,
    }


def preview(image_index: int, step: int, jpeg: str) -> EventData:
    """jpeg: base64."""
    return {"image_index": image_index, "step": step, "format": "jpeg", "b64_json": jpeg}


def completed(
    images: Iterable[StoredImage],
    timings: Mapping[str, float],
    usage: Mapping[str, int],
    warnings: Iterable[JobWarning] = (),
) -> EventData:
    """The API replaces the `index` of each image by a URL."""
    return {
        "images": [image.summary() for image in images],
        "timings": dict(timings),
        "usage": dict(usage),
        "warnings": [warning.model_dump() for warning in warnings],
    }


def failed(error: Mapping[str, str]) -> EventData:
    return {"error": dict(error)}


def canceled() -> EventData:
    return {}


def error_of(error: BaseException, job_id: str) -> dict[str, str]:
    """Code and message for the client, and the field of the request at fault where there is one. The text of an
    unforeseen error may hold anything, so only the log has it."""
    match error:
        case RequestError():
            return {"code": "invalid_request", "message": str(error), "field": error.field}
        case BadUpload():
            code, message = error.code, str(error)
        case BlobStoreFull():
            code, message = "storage_full", str(error)
        case EngineFailed(code="out_of_memory"):
            code, message = error.code, f"there was not memory enough to draw job {job_id}"
        case EngineFailed(code="not_finite"):
            advice = "a lower guidance_scale, or another class or prompt, may help"
            code, message = error.code, f"the model's numbers overflowed while it drew job {job_id}; {advice}"
        case EngineFailed():
            code, message = error.code, f"the engine failed while it drew job {job_id}; the worker's log says how"
        case _:
            code = "internal_error"
            message = f"something went wrong with job {job_id}; the worker's log says what"
    return {"code": code, "message": message}

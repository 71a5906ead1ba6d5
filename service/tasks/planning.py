"""What all plans share: from checked fields, a layout and a model card to a JobSpec, and what a job costs.

Raises Problem with the field at fault.
"""

from __future__ import annotations

import secrets
from typing import Any, TypeVar

import numpy as np

from engine.card import SETTINGS, ModelCard
from engine.noise import CHOSEN_SEEDS, image_seed
from service.errors import Problem
from service.jobs.spec import Box, Compose, JobSpec, NoCondition, Output, Sampling
from service.tasks.fields import TaskFields
from service.tasks.layout import Layout
from service.tasks.sampling import check_order, condition, sampling

AnyFields = TypeVar("AnyFields", bound=TaskFields)


def check_task(task: str, card: ModelCard) -> None:
    """Raises Problem where the model can't do it."""
    if task in card.tasks:
        return
    why = "" if "order" in card.settings else ": it draws in a fixed order"
    can = ", ".join(card.tasks)
    raise Problem.field("model", f"{card.name} can't {task}{why}; it can {can}", "task_not_supported")


def random_seed() -> int:
    return secrets.randbelow(CHOSEN_SEEDS)


def with_seed(fields: AnyFields) -> AnyFields:
    """The fields with their seed, or else with a random one. Planning itself is pure."""
    return fields if fields.seed is not None else fields.model_copy(update={"seed": random_seed()})


def image_seeds(seed: int, n: int) -> tuple[int, ...]:
    """The seed of each picture; the first is the request's own."""
    return tuple(image_seed(seed, index) for index in range(n))


def job_spec(
    task: str,
    fields: TaskFields,
    card: ModelCard,
    layout: Layout,
    *,
    picture_box: Box | None = None,
    picture_tokens: np.ndarray | None = None,
    compose: Compose | None = None,
    request: dict[str, Any] | None = None,
) -> JobSpec:
    """request: the task's own fields, as shown; None: those that the client sent."""
    values = sampling({name: getattr(fields, name) for name in SETTINGS}, card, card.defaults_of(task))
    wanted = condition(fields, card, values)
    check_order(fields.order, np.flatnonzero(~layout.fixed_cells).tolist())
    if isinstance(wanted, NoCondition) and values["guidance_scale"] is not None:
        values["guidance_scale"] = 1.0  # there is one branch, and nothing to guide
    assert fields.seed is not None
    return JobSpec(
        task=task,
        model=card.name,
        condition=wanted,
        seeds=image_seeds(fields.seed, fields.n),
        sampling=Sampling(**values),
        grid=layout.grid,
        window_shape=layout.window_shape,
        windows=layout.windows,
        rope_scaling=layout.rope_scaling,
        size=layout.size,
        fixed_cells=layout.fixed_cells,
        picture_box=picture_box,
        picture_tokens=picture_tokens,
        compose=compose,
        output=Output(format=fields.format, quality=fields.quality, previews=fields.previews),
        request=own_fields(fields) if request is None else request,
    )


def own_fields(fields: TaskFields) -> dict[str, Any]:
    """What a task has beside the fields of all, and the pictures themselves."""
    own = type(fields).model_fields.keys() - TaskFields.model_fields.keys() - {"image", "mask"}
    return fields.model_dump(mode="json", include=own)


def cost(spec: JobSpec, card: ModelCard, capacity: dict[str, Any]) -> int:
    """KV tokens that the job may reserve, in whole pages: what it weighs in the queue. How many rows a prompt has, the
    worker's text encoder alone can tell: the job weighs as many as the model takes, and the engine may need fewer.

    Raises Problem when one picture alone never fits the largest worker, however short its prompt. Of a prompt that is
    too long for the worker's KV cache the engine says how many tokens fit.
    """
    page = int(capacity.get("page_size", 16))
    cells = spec.window_shape[0] * spec.window_shape[1]
    most_rows = card.cached_rows(cells)
    least_rows = most_rows if spec.prompt is None else most_rows - card.condition_rows + 1
    least, most = (-(-rows // page) * page * spec.branches for rows in (least_rows, most_rows))
    room = capacity.get("cache_tokens")
    if room is not None and least > room:
        need = f"a picture needs {least} tokens of KV cache, and the largest worker has {room}"
        if spec.window_shape == card.grid:
            raise Problem.field("model", f"{need}; choose another model, or a guidance_scale of 1", "never_fits")
        raise Problem.field("width", f"{need}; choose a smaller picture", "never_fits")
    return most * spec.n

"""vary: draw a picture again around a share of its tokens. It keeps its size, and none of its pixels."""

from __future__ import annotations

from pydantic import Field

from engine.card import ModelCard
from engine.editing.masks import kept_cells
from service.jobs.spec import JobSpec
from service.tasks.fields import KeepSeed, Pictured, TaskFields, Upload
from service.tasks.generate import compose
from service.tasks.layout import around
from service.tasks.pictures.inputs import tokens_on, whole_picture
from service.tasks.planning import job_spec, own_fields
from service.tasks.task import PictureFacts, Task

DEFAULT_KEEP = 0.5


class VaryFields(TaskFields):
    """What a variation adds."""

    keep: float = Field(
        DEFAULT_KEEP,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="The share of the picture's tokens to keep, between 0 and 1",
    )
    keep_seed: KeepSeed = Field(
        None, description="Selects the tokens to keep, the same for all n pictures; null: the seed selects them"
    )


class VaryRequest(VaryFields, Pictured):
    """Draw a picture anew around some of its tokens."""


class VaryForm(VaryFields, Upload):
    """The same as multipart/form-data, the picture as a file."""


def plan(fields: VaryFields, facts: PictureFacts, card: ModelCard) -> JobSpec:
    """All n pictures keep the same tokens: those that keep_seed selects."""
    keep_seed = fields.seed if fields.keep_seed is None else fields.keep_seed
    assert keep_seed is not None
    layout = around(kept_cells(keep_seed, fields.keep, facts.grid), facts.size, card)
    return job_spec(
        "vary",
        fields,
        card,
        layout,
        picture_box=whole_picture(layout.grid),
        picture_tokens=tokens_on(facts.tokens, layout.grid),
        request=own_fields(fields) | {"keep_seed": keep_seed},
    )


TASK = Task(
    name="vary",
    fields=VaryFields,
    request=VaryRequest,
    form=VaryForm,
    files=("image",),
    size_field="image",
    plan=plan,
    compose=compose,
)

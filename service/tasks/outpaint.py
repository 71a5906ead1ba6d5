"""outpaint: draw on beyond the borders of a picture, whose pixels stay as they are."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from engine.card import ModelCard
from engine.editing.outpainting import SIDES, Padding, assemble, outpaint_geometry
from engine.request import RequestError
from service.errors import Problem
from service.jobs.spec import Box, JobSpec, OutpaintCompose
from service.tasks.fields import MAX_PIXELS, SEAMLESS, Pictured, TaskFields, Upload
from service.tasks.layout import Layout
from service.tasks.pictures.colours import from_srgb
from service.tasks.planning import job_spec
from service.tasks.task import Inputs, PictureFacts, Task

PADDING = "Pixels to add {}, rounded up to whole tokens"


class OutpaintFields(TaskFields):
    """What outpainting adds: how much, in pixels of the picture; it is rounded up to whole tokens."""

    left: int = Field(0, ge=0, le=MAX_PIXELS, description=PADDING.format("on the left"))
    right: int = Field(0, ge=0, le=MAX_PIXELS, description=PADDING.format("on the right"))
    up: int = Field(0, ge=0, le=MAX_PIXELS, description=PADDING.format("above"))
    down: int = Field(0, ge=0, le=MAX_PIXELS, description=PADDING.format("below"))
    seamless: bool = SEAMLESS


class OutpaintRequest(OutpaintFields, Pictured):
    """Draw beyond the borders of a picture."""


class OutpaintForm(OutpaintFields, Upload):
    """The same as multipart/form-data, the picture as a file."""


def plan(fields: OutpaintFields, facts: PictureFacts, card: ModelCard) -> JobSpec:
    """Known tokens are not used: those at the picture's border say that it ends there. The worker encodes it again."""
    asked = Padding(**{side: getattr(fields, side) for side in SIDES})
    try:
        geometry = outpaint_geometry(facts.size, asked, grid=card.grid, stride=card.stride)
    except RequestError as error:
        raise Problem.field(error.field, str(error).partition(": ")[2], "padding") from None
    rows, cols = geometry.cells
    return job_spec(
        "outpaint",
        fields,
        card,
        Layout(fixed_cells=geometry.fixed_cells, size=geometry.size, window_shape=card.grid),
        picture_box=Box(row=geometry.margin.up, col=geometry.margin.left, rows=rows, cols=cols),
        compose=OutpaintCompose(geometry=geometry, seamless=fields.seamless),
    )


def compose(spec: JobSpec, inputs: Inputs, drawn: np.ndarray) -> np.ndarray:
    assert isinstance(spec.compose, OutpaintCompose)
    assert inputs.image is not None
    return assemble(inputs.image, from_srgb(drawn, inputs.profile), spec.compose.geometry, smooth=spec.compose.seamless)


TASK = Task(
    name="outpaint",
    fields=OutpaintFields,
    request=OutpaintRequest,
    form=OutpaintForm,
    files=("image",),
    size_field="image",
    plan=plan,
    compose=compose,
)

"""inpaint: draw a part of a picture again. With another class than the picture's, this edits."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from engine.card import ModelCard
from engine.editing.masks import composite
from service.jobs.spec import InpaintCompose, JobSpec
from service.tasks.fields import SEAMLESS, Pictured, TaskFields, Upload
from service.tasks.layout import around
from service.tasks.pictures.colours import from_srgb
from service.tasks.pictures.inputs import tokens_on, whole_picture
from service.tasks.pictures.masks import MaskMode
from service.tasks.planning import job_spec
from service.tasks.task import Inputs, PictureFacts, Task


class InpaintFields(TaskFields):
    """What inpainting adds, apart from the pictures themselves."""

    mask_mode: MaskMode = Field(
        "white",
        description="Which part of the mask is drawn again: white, black, transparent (alpha), or all but 0 (nonzero)",
    )
    feather: int = Field(0, ge=0, le=256, description="Blend the mask's border over so many pixels; 0: a hard edge")
    seamless: bool = SEAMLESS


class InpaintRequest(InpaintFields, Pictured):
    """Redraw a part of a picture. With another class than the picture's, this edits."""

    mask: str | None = Field(
        None,
        min_length=1,
        description="Of the picture's shape; it is resized to the picture. With mask_mode alpha it may be left out: "
        "then the picture's own transparency is the mask",
    )


class InpaintForm(InpaintFields, Upload):
    """The same as multipart/form-data, the pictures as files."""

    mask: bytes | None = Field(None, description="Of the picture's shape; it is resized to the picture")


def plan(fields: InpaintFields, facts: PictureFacts, card: ModelCard) -> JobSpec:
    """The model draws every token that the mask touches; compose takes the pixels inside the mask only."""
    assert facts.fixed_cells is not None
    layout = around(facts.fixed_cells, facts.size, card)
    return job_spec(
        "inpaint",
        fields,
        card,
        layout,
        picture_box=whole_picture(layout.grid),
        picture_tokens=tokens_on(facts.tokens, layout.grid),
        compose=InpaintCompose(feather=fields.feather, seamless=fields.seamless),
    )


def compose(spec: JobSpec, inputs: Inputs, drawn: np.ndarray) -> np.ndarray:
    assert isinstance(spec.compose, InpaintCompose)
    assert inputs.image is not None
    assert inputs.mask is not None
    own = from_srgb(drawn, inputs.profile)
    out = None if inputs.reused else inputs.image
    return composite(inputs.image, own, inputs.mask, spec.compose.feather, smooth=spec.compose.seamless, out=out)


TASK = Task(
    name="inpaint",
    fields=InpaintFields,
    request=InpaintRequest,
    form=InpaintForm,
    files=("image", "mask"),
    size_field="image",
    plan=plan,
    compose=compose,
)

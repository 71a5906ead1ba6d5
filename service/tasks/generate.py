"""generate: draw pictures of a class or of a prompt on the model's own grid."""

from __future__ import annotations

import numpy as np

from engine.card import ModelCard
from engine.editing.masks import fit
from service.jobs.spec import JobSpec
from service.tasks.fields import TaskFields
from service.tasks.layout import whole_grid
from service.tasks.planning import job_spec
from service.tasks.task import Inputs, Task


class GenerateRequest(TaskFields):
    """Draw pictures of a class or of a prompt."""


def plan(fields: GenerateRequest, facts: None, card: ModelCard) -> JobSpec:
    return job_spec("generate", fields, card, whole_grid(card))


def compose(spec: JobSpec, inputs: Inputs, drawn: np.ndarray) -> np.ndarray:
    return fit(drawn, spec.size)


TASK = Task(name="generate", fields=GenerateRequest, request=GenerateRequest, plan=plan, compose=compose)

"""The tasks by name. A new task is a module with a TASK, and a line here."""

from __future__ import annotations

from service.tasks import expand, generate, inpaint, outpaint, vary
from service.tasks.task import Task

TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in (generate, expand, inpaint, outpaint, vary)}

"""A file's structure: what a short walk over its parts tells, before anything is decoded."""

from service.tasks.pictures.structure.inspection import inspect
from service.tasks.pictures.structure.parts import Structure, StructureError

__all__ = ["Structure", "StructureError", "inspect"]

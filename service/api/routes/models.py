"""The models that the live workers serve."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from service.api.dependencies import ServicesDep
from service.api.problems import described
from service.api.schemas import ClassList, ClassObject, ListedModel, ModelList, ModelObject, Palette
from service.errors import Problem
from service.jobs.catalogue import ServedModel

router = APIRouter(prefix="/v1/models", tags=["models"], responses=described(404, 422))

ModelId = Annotated[str, Path(max_length=200)]


@router.get("", name="list_models")
async def models(request: Request, services: ServicesDep) -> ModelList:
    """List the models that are served now."""
    served = await services.catalogue.models()
    found = [_model(served[name], request) for name in sorted(served)]
    listed = [ListedModel.model_validate(one.model_dump(include={*ListedModel.model_fields})) for one in found]
    return ModelList(models=found, data=listed)


@router.get("/{model}", name="get_model")
async def model(model: ModelId, request: Request, services: ServicesDep) -> ModelObject:
    """Get one model: its sizes, tasks, settings and their defaults."""
    return _model(await services.catalogue.one(model), request)


@router.get("/{model}/classes", name="list_classes")
async def classes(
    model: ModelId,
    services: ServicesDep,
    q: Annotated[str, Query(max_length=200, description="Part of a name, synonym or WordNet id, or a label")] = "",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> ClassList:
    """List the classes that the model can draw."""
    served = await services.catalogue.one(model)
    text = q.casefold().strip()
    found = [
        c
        for c in served.card.classes
        if text == str(c.label) or any(text in name.casefold() for name in (c.name, *c.synonyms, c.wordnet_id or ""))
    ]
    shown = [
        ClassObject(label=c.label, name=c.name, synonyms=list(c.synonyms), wordnet_id=c.wordnet_id)
        for c in found[:limit]
    ]
    return ClassList(classes=shown, total=len(found))


@router.get("/{model}/palette", name="get_palette")
async def palette(model: ModelId, response: Response, services: ServicesDep) -> Palette:
    """Get a patch of 4×4 pixels for every token, to paint a picture from its token events."""
    served = await services.catalogue.one(model)
    raw = await services.catalogue.palette(model)
    if raw is None:
        detail = "the model's palette is not ready yet"
        raise Problem(503, "no_palette", detail, headers={"Retry-After": str(services.settings.retry_after)})
    response.headers["Cache-Control"] = "private, max-age=300"
    return Palette(codes=served.card.codebook_size, rgb=base64.b64encode(raw).decode())


def _model(served: ServedModel, request: Request) -> ModelObject:
    card = served.card
    own = f"{request.scope.get('root_path', '')}/v1/models/{card.name}"
    return ModelObject(
        id=card.name,
        created=int(served.since),
        family=card.family,
        conditioning=card.conditioning,
        description=card.description,
        licence=card.licence,
        tasks=list(card.tasks),
        grid=card.grid,
        width=card.width,
        height=card.height,
        codebook_size=card.codebook_size,
        classes=len(card.classes),
        settings=list(card.settings),
        steps=card.steps,
        defaults={name: value for name, value in asdict(card.defaults).items() if name in card.settings},
        task_defaults={task: dict(values) for task, values in card.task_defaults.items()},
        example_prompts=list(card.example_prompts),
        workers=served.workers,
        urls={"self": own, "classes": f"{own}/classes", "palette": f"{own}/palette"},
    )

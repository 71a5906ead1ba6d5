"""What the service does now: /v1/load."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.api.dependencies import ServicesDep
from service.api.schemas import Load, ModelLoad
from service.jobs import ModelLoad as Jobs

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/load", name="get_load")
async def load(response: Response, services: ServicesDep) -> Load:
    """Get what each model's workers do now: jobs, pictures, tokens a second, pages of the KV cache."""
    served, jobs, loads = (
        await services.catalogue.models(),
        await services.queue.stats(),
        await services.catalogue.loads(),
    )
    response.headers["Cache-Control"] = "no-store"
    return Load(
        models=[_load(name, served[name].workers, jobs.get(name), loads.get(name, {})) for name in sorted(served)]
    )


def _load(model: str, workers: int, jobs: Jobs | None, drawn: dict[str, float]) -> ModelLoad:
    """drawn: as the workers report it; empty until the first report."""
    return ModelLoad(
        model=model,
        workers=workers,
        queued=jobs.queued if jobs else 0,
        running=jobs.running if jobs else 0,
        pictures=int(drawn.get("pictures", 0)),
        tokens_per_second=drawn.get("tokens_per_second", 0),
        kv_pages=int(drawn.get("kv_pages", 0)),
        kv_pages_used=int(drawn.get("kv_pages_used", 0)),
    )

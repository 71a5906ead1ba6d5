"""The checkpoints of the models that are to be served: read as `arpg serve` reads them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from engine.models.model_index import HubFile, description, known_folders, on_disk, weights_of
from service.cli.doctor.finding import Finding
from service.cli.doctor.machine import existing
from service.cli.doctor.packages import imported
from service.settings import Settings

GIGABYTE = 10**9


def checkpoints(settings: Settings) -> Iterator[Finding]:
    for model in settings.models:
        yield _checked(model)


def _checked(model: str) -> Finding:
    subject = f"checkpoint {model}"
    torch, _ = imported("torch")
    if torch is None:
        return Finding(subject, "skipped", "needs torch")
    registry, problem = imported("engine.models.registry")
    if registry is None:
        return Finding(subject, "skipped", problem or "the package engine is missing")
    from engine.models.checkpoint import CheckpointError

    try:
        folder = registry.find(model)
        missing = _not_fetched(folder)
        if missing:
            return _to_fetch(subject, folder, missing)
        loaded = registry.load(folder, device=torch.device("cpu"), dtype=torch.float32)
    except CheckpointError as error:
        return Finding(subject, "fault", str(error), _cure(model))
    except (OSError, MemoryError) as error:
        return Finding(subject, "fault", f"{type(error).__name__}: {error}", _cure(model))
    rows, cols = loaded.card.grid
    parameters = sum(each.numel() for each in loaded.network.parameters())
    return Finding(subject, "ok", f"{loaded.card.family}, {parameters / 1e6:,.1f} M parameters, {cols}×{rows} tokens")


def _not_fetched(folder: Path) -> list[HubFile]:
    """Files on the hub that are not in the cache. A description that can't be read names none: loading tells why."""
    try:
        data = description(folder)
        entries = [data, data["tokenizer"]]
        encoder = data.get("text_encoder") or {}
        entries += [{"weights": encoder[name]} for name in ("config", "tokenizer", "weights") if name in encoder]
        files = [weights_of(folder, entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [file for file in files if isinstance(file, HubFile) and on_disk(file) is None]


def _to_fetch(subject: str, folder: Path, missing: list[HubFile]) -> Finding:
    size = description(folder).get("bytes")
    amount = f", of which the transformer has {size / GIGABYTE:.1f} GB" if size else ""
    says = f"not fetched yet: {', '.join(map(str, missing))}{amount}"
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:
        return Finding(subject, "fault", says, "pip install '.[hub]' in the checkout, which fetches them")
    cache = Path(constants.HF_HUB_CACHE).absolute()
    free = shutil.disk_usage(existing(cache)).free
    if size and free < size:
        cure = "free some space, or set HF_HOME to a folder on another disk"
        return Finding(subject, "fault", f"{says}; {free / GIGABYTE:.1f} GB are free in {cache}", cure)
    if constants.HF_HUB_OFFLINE:
        return Finding(subject, "fault", f"{says}, and HF_HUB_OFFLINE is set", "fetch them once without it")
    return Finding(subject, "warning", says, "they are fetched when the model is first loaded")


def _cure(model: str) -> str:
    if model in known_folders():
        return "fetch it anew: delete the file that is named, or reinstall arpg-serve if it is a shipped one"
    if not Path(model).exists():
        return "name one of those that `arpg models` lists, or a folder with a model.json"
    return "correct the file or the model.json that is named; docs/models.md says what a model folder holds"

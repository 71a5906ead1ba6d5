"""Weights by reference: a file beside the model.json, or one on the Hugging Face Hub, read through the hub's cache.

HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN have the meaning that huggingface-hub, an optional dependency, gives
them.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from engine.models.checkpoint import INDEX, CheckpointError, shards
from engine.models.model_index import HUB, HubFile, on_disk, weights_of

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
"""In which the hub must answer."""


def weights_file(folder: Path, entry: Mapping[str, Any]) -> Path:
    """The file that entry["weights"] names. It is fetched if it is on the hub, and checked if entry has a "sha256".
    Raises CheckpointError when it can't be fetched or has another hash, ValueError when the entry is invalid."""
    expected = entry.get("sha256")
    if expected is not None and not re.fullmatch(r"[0-9a-f]{64}", expected):
        raise ValueError(f"sha256: {expected!r} is not 64 lower-case hexadecimal digits")
    weights = weights_of(folder, entry)
    path = fetch(weights) if isinstance(weights, HubFile) else weights
    if expected is not None and path.is_file():
        with path.open("rb") as content:
            actual = hashlib.file_digest(content, "sha256").hexdigest()
        if actual != expected:
            again = f"; to fetch it anew, delete {path.resolve()}" if isinstance(weights, HubFile) else ""
            raise CheckpointError(f"{weights}: sha256 is {actual} instead of {expected}{again}")
    return path


def shard_files(entry: Mapping[str, Any], path: Path) -> list[Path]:
    """The files with the weights: those that an index names, fetched if it is on the hub, or the path itself. entry,
    path: as for weights_file. Raises CheckpointError."""
    if not path.name.endswith(INDEX):
        return [path]
    names = sorted(set(shards(path).values()))
    if not entry["weights"].startswith(HUB):
        return [path.with_name(name) for name in names]
    index = HubFile.parse(entry["weights"])
    return [fetch(replace(index, path=str(PurePosixPath(index.path).with_name(name)))) for name in names]


def fetch(file: HubFile) -> Path:
    """The path of the file in the hub's cache; it is downloaded if the cache lacks it or has an older version. Raises
    CheckpointError with the file, the cause and what to do."""
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError as missing:
        raise CheckpointError(f"{file}: to fetch it, pip install '.[hub]' in the checkout ({missing})") from missing
    cached = on_disk(file)
    if (reason := _unreachable()) is not None:
        if cached is None:
            raise CheckpointError(f"{file}: {_cannot_ask(reason)}")
        log.warning("%s: taken from the cache: the hub can't be asked whether it is the newest (%s)", file, reason)
        return cached
    try:
        if cached is None:
            log.info("fetching %s", file)  # may take minutes; without a terminal there is no progress bar
        return Path(hf_hub_download(file.repository, file.path, revision=file.revision))
    # Everything: besides its own errors and a full disk, huggingface-hub raises those of its HTTP client, which
    # changes with the version.
    except Exception as error:
        raise CheckpointError(f"{file}: {_problem(error, file)}") from error


def _unreachable() -> Exception | None:
    """Why the hub does not answer; None: it does, or it is not to be asked. One request: without a network
    huggingface-hub would repeat its own for half a minute."""
    from huggingface_hub import constants, get_session, is_offline_mode

    if is_offline_mode():
        return None
    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
    except Exception as error:  # of its HTTP client, which changes with the version
        return error
    return None


def _cannot_ask(reason: BaseException) -> str:
    from huggingface_hub import constants

    return f"not in the cache, and {constants.ENDPOINT} can't be asked ({reason}): check network and HF_ENDPOINT"


def _problem(error: Exception, file: HubFile) -> str:
    from huggingface_hub import constants, errors, is_offline_mode

    page = f"{constants.ENDPOINT}/{file.repository}"
    match error:
        case errors.GatedRepoError():
            return f"accept the terms on {page} and set HF_TOKEN"
        case errors.RepositoryNotFoundError():
            return f"no such repository ({page}), or a private one: then set HF_TOKEN"
        case errors.RevisionNotFoundError():
            return f"no revision {file.revision} in the repository: {page}/commits/main lists them"
        case errors.RemoteEntryNotFoundError():
            return f"no such file in the repository: {page}/tree/{file.revision or 'main'} lists them"
        case errors.LocalEntryNotFoundError() if is_offline_mode():
            return f"not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set: fetch it once without"
        case errors.LocalEntryNotFoundError():
            return _cannot_ask(error.__cause__ or error)
        case _:
            return f"the download failed: {type(error).__name__}: {error}"

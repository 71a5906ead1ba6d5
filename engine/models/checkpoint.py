"""Checkpoints: reads the public containers, and loads only weights that fit exactly."""

from __future__ import annotations

import hashlib
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CONTAINERS = ("model", "module", "state_dict")
# Written by the authors' training code; inference does not need them.
UNUSED = frozenset({"freqs_cis", "codebook_used", "quantize.codebook_used"})
INDEX = ".safetensors.index.json"
"""How the name ends of a file that lists the shards of a checkpoint, as the Hugging Face Hub has it."""
NAMES_SHOWN = 6
NEEDED = {
    "cls_embedding.uncond_embedding": "it stands for no text in every guided picture, and random numbers in its place "
    "would spoil them all; save the checkpoint with the model's buffers",
}
"""Why a file without these is rejected, where its authors' own code would load it."""


class CheckpointError(Exception):
    """A checkpoint or model folder that can't be used; the message names the file and what is wrong."""


class Unfilled(TorchFunctionMode):
    """Networks built inside it get no random weights, which the checkpoint would replace: billions of numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_):  # they fill in place
            return None
        return func(*args, **(kwargs or {}))


def load_state(path: Path, skip: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The state dict of a .safetensors file, of the shards beside a .safetensors.index.json, or of a .pt / .pth / .bin:
    under 'model', 'module' or 'state_dict', or bare. Pickled code is never run. skip: prefixes of keys that are not
    read. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.name.endswith(INDEX):
        return _joined(path, skip)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.offset_keys() if not key.startswith(skip)}
        # The authors' training code keeps its arguments beside the weights.
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the readers raise almost anything
        raise CheckpointError(f"{path}: not a readable checkpoint ({type(error).__name__}: {error})") from error
    return {key: value for key, value in _unwrap(content, path).items() if not key.startswith(skip)}


def shards(path: Path) -> dict[str, str]:
    """Key → name of the file beside the index that holds it. Raises CheckpointError."""
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if not places or any(Path(name).name != name for name in places.values()):
            raise ValueError("weight_map must give each key the name of a file beside the index")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a readable index ({type(error).__name__}: {error})") from error
    return dict(places)


def _joined(path: Path, skip: tuple[str, ...]) -> dict[str, Tensor]:
    places = {key: name for key, name in shards(path).items() if not key.startswith(skip)}
    state: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        shard = path.with_name(name)
        part = load_state(shard, skip)
        expected = {key for key, place in places.items() if place == name}
        if problems := [*_named("missing", expected - part.keys()), *_named("unexpected", part.keys() - expected)]:
            raise CheckpointError(f"{shard} is not as {path.name} says: {'; '.join(problems)}")
        state |= part
    return state


def fingerprint(path: Path) -> str:
    """The first 16 hex digits of the file's SHA-256. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def fit(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load the state into the model, without copying tensors. Raises CheckpointError unless every key and shape fits
    and every weight is finite."""
    state = {key: value for key, value in state.items() if key not in UNUSED}
    expected = {key: value.shape for key, value in model.state_dict().items()}
    problems = [
        *_named("missing", missing := expected.keys() - state.keys()),
        *(f"without {key} it can't be used: {why}" for key, why in NEEDED.items() if key in missing),
        *_named("unexpected", state.keys() - expected.keys()),
        *_named(
            "of another shape",
            {
                f"{key} {tuple(state[key].shape)} instead of {tuple(shape)}"
                for key, shape in expected.items()
                if key in state and state[key].shape != shape
            },
        ),
    ]
    problems = problems or _named(
        "not plain floating point", {key for key, value in state.items() if not _plain(value)}
    )
    problems = problems or _named("not finite", {key for key, value in state.items() if not _finite(value)})
    if problems:
        raise CheckpointError(f"{path} does not fit {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict(state, assign=True)


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    for name in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    if not isinstance(content, dict) or not content or not all(map(_is_entry, content.items())):
        raise CheckpointError(f"{path}: holds no state dict, neither bare nor under {', '.join(CONTAINERS)}")
    return content


def _is_entry(item: tuple[object, object]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _plain(value: Tensor) -> bool:
    return value.is_floating_point() and value.layout is torch.strided and not value.is_meta


def _finite(value: Tensor) -> bool:
    # A sum with one NaN or infinity is not finite, and a float64 sum of float32 numbers can't overflow.
    return bool(value.float().sum(dtype=torch.float64).isfinite())


def _named(what: str, keys: set[str]) -> list[str]:
    if not keys:
        return []
    shown = sorted(keys)[:NAMES_SHOWN]
    more = f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else ""
    return [f"{what}: {', '.join(shown)}{more}"]

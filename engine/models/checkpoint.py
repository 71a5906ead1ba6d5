"""Weights from disk: the public containers, fitted strictly."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

CONTAINERS = ("model", "module", "state_dict")
# Written by the authors' training code, read by nobody.
UNUSED = frozenset({"freqs_cis", "codebook_used", "quantize.codebook_used"})
NAMES_SHOWN = 6


class CheckpointError(Exception):
    """A checkpoint or model folder that can't be used; the message names the file and what is wrong."""


def load_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, or in a .pt / .pth / .bin under 'model', 'module' or 'state_dict',
    or bare. Pickled code is never run."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({error})") from error
    return _unwrap(content, path)


def fit(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Put the state into the model. Raises CheckpointError unless every key and shape fits."""
    state = {key: value for key, value in state.items() if key not in UNUSED}
    expected = {key: value.shape for key, value in model.state_dict().items()}
    problems = [
        *_named("missing", expected.keys() - state.keys()),
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
    if problems:
        raise CheckpointError(f"{path} does not fit {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict(state)


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    for name in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path}: holds no state dict, neither bare nor under {', '.join(CONTAINERS)}")
    return content


def _named(what: str, keys: set[str]) -> list[str]:
    if not keys:
        return []
    shown = sorted(keys)[:NAMES_SHOWN]
    more = f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else ""
    return [f"{what}: {', '.join(shown)}{more}"]

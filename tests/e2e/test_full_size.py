"""The published sizes, written to disk as their authors write them and drawn through `arpg serve`. Gigabytes and
minutes: `make full-size` runs it, `make test` does not."""

from __future__ import annotations

import io
import json
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from torch import nn

from engine.codec.vq import VQConfig, VQModel
from engine.models.families import FAMILIES
from engine.models.model_index import known_folders
from tests.support.serve import serving

pytestmark = pytest.mark.full_size

State = dict[str, torch.Tensor]
READY_SECONDS, DRAWN_SECONDS = 300, 1200
PAR_L = 342_914_048  # parameters


def write_model(
    folder: Path, published: str, weights: str, wrap: Callable[[State], Any], tokenizer: Path, **change: Any
) -> Path:
    """A published model's folder, its transformer random and in a file of that name, its tokenizer at that path."""
    description = json.loads((known_folders()[published] / "model.json").read_text()) | change
    description["weights"] = weights
    description["tokenizer"]["weights"] = str(tokenizer)
    folder.mkdir()
    network = FAMILIES[description["family"]](description, tuple(description["grid"])).network
    assert sum(p.numel() for p in network.parameters()) == description["parameters"]
    torch.save(wrap(random_weights(network)), folder / weights)
    (folder / "model.json").write_text(json.dumps(description))
    return folder


def random_weights(module: nn.Module) -> State:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02, generator=generator)
    return module.state_dict()


def test_the_published_sizes_load_and_draw_side_by_side(tmp_path: Path) -> None:
    tokenizer = tmp_path / "vq_ds16_c2i.pt"
    torch.save({"model": random_weights(VQModel(VQConfig()))}, tokenizer)
    models = [
        write_model(tmp_path / "arpg-l", "arpg-l", "arpg_300m.pt", lambda state: {"state_dict": state}, tokenizer),
        write_model(
            tmp_path / "llamagen-b-256",
            "llamagen-b-256",
            "c2i_B_256.pt",
            lambda state: {"model": state, "steps": 1, "args": Namespace(gpt_model="GPT-B")},
            tokenizer,
        ),
        # Known from the paper alone: the weights were never published.
        write_model(
            tmp_path / "par-l-4x",
            "par-xl-4x",
            "PAR-L-4x.pt",
            lambda state: state,
            tokenizer,
            name="par-l-4x",
            transformer="L",
            parameters=PAR_L,
        ),
    ]
    with serving(tmp_path / "var", *models, ready_seconds=READY_SECONDS) as server:
        client = server.client
        jobs = {}
        for name, settings in (("arpg-l", {"steps": 8}), ("llamagen-b-256", {}), ("par-l-4x", {})):
            answer = client.post("/v1/generate", json={"model": name, "class": 207, "seed": 1, **settings})
            jobs[name] = answer.raise_for_status().json()["urls"]["self"]
        for name, pixels in (("arpg-l", 256), ("llamagen-b-256", 256), ("par-l-4x", 384)):
            assert finished(client, jobs[name])["status"] == "succeeded"
            picture = client.get(f"{jobs[name]}/images/0", params={"format": "png"}).raise_for_status()
            assert Image.open(io.BytesIO(picture.content)).size == (pixels, pixels)
        assert server.stop() == 0


def finished(client: httpx.Client, job: str) -> dict[str, Any]:
    deadline = time.monotonic() + DRAWN_SECONDS
    while (answer := client.get(job).raise_for_status().json())["status"] in ("queued", "running"):
        assert time.monotonic() < deadline, "not drawn in time"
        time.sleep(1)
    return answer

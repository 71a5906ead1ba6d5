"""The published sizes, written to disk as their authors write them and drawn through `arpg serve`. Gigabytes and
minutes: `make full-size` runs it, `make test` does not."""

from __future__ import annotations

import io
import json
import subprocess
import sys
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
from engine.text.t5 import T5Config, T5Encoder
from tests.support.serve import serving
from tests.support.tiny import save_shards, t5_tokenizer

pytestmark = pytest.mark.full_size

State = dict[str, torch.Tensor]
READY_SECONDS, DRAWN_SECONDS = 300, 1200
PAR_L = 342_914_048  # parameters
T2I_B = 112_282_368
FLAN_T5_XL = {
    "vocab_size": 32128, "d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32,
    "feed_forward_proj": "gated-gelu", "model_type": "t5", "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


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
    for buffer in module.buffers():
        nn.init.normal_(buffer, generator=generator)
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
    with serving(tmp_path / "var", *models) as server:
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


def write_encoder(folder: Path) -> dict[str, str]:
    """The "text_encoder" of a model.json: random weights of the published size, in bfloat16 and in shards. The
    tokenizer knows letters and a few words."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(FLAN_T5_XL))
    network = T5Encoder(T5Config.from_json(FLAN_T5_XL))
    network.init_weights(torch.Generator().manual_seed(0))
    save_shards(folder, network.to(torch.bfloat16).state_dict())
    t5_tokenizer().save(str(folder / "tokenizer.json"))
    names = {"config": "config.json", "tokenizer": "tokenizer.json", "weights": "model.safetensors.index.json"}
    return {entry: str(folder / name) for entry, name in names.items()}


def test_llamagen_t2i_xl_loads_with_its_text_encoder_and_draws_prompts(tmp_path: Path) -> None:
    tokenizer = tmp_path / "vq_ds16_t2i.pt"
    torch.save({"model": random_weights(VQModel(VQConfig()))}, tokenizer)
    name = "llamagen-t2i-xl-256"
    folder = write_model(
        tmp_path / name,
        name,
        "t2i_XL_stage1_256.pt",
        lambda state: {"model": state, "args": Namespace(gpt_model="GPT-XL")},
        tokenizer,
        text_encoder=write_encoder(tmp_path / "t5"),
    )
    with serving(tmp_path / "var", folder) as server:
        jobs = []
        for fields in (
            {"prompt": "a red cube and two blue mugs on the floor", "negative_prompt": "a yellow ring"},
            {"prompt": "a lamp", "guidance_scale": 1},
        ):
            answer = server.client.post("/v1/generate", json={"model": name, "seed": 1, **fields})
            jobs.append(answer.raise_for_status().json()["urls"]["self"])
        pictures = set()
        for job in jobs:
            assert finished(server.client, job)["status"] == "succeeded"
            picture = server.client.get(f"{job}/images/0", params={"format": "png"}).raise_for_status()
            assert Image.open(io.BytesIO(picture.content)).size == (256, 256)
            pictures.add(picture.content)
        assert len(pictures) == 2
        assert server.stop() == 0


class Hostile:
    """A pickle that would run code when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda state: {k: v for k, v in state.items() if "uncond" not in k}, "cls_embedding.uncond_embedding"),
        (lambda state: state | {"freqs_cis": torch.zeros(376, 64, 2)}, "n_head 12 makes heads of 32 rotated pairs"),
        (lambda state: {"model": state, "code": Hostile()}, "not a readable checkpoint"),
    ],
    ids=["no uncond embedding", "another head count", "pickled code"],
)
def test_a_checkpoint_that_can_not_be_used_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[State], Any], says: str
) -> None:
    tokenizer = tmp_path / "vq_ds16_t2i.pt"
    torch.save({"model": random_weights(VQModel(VQConfig()))}, tokenizer)
    sizes = {"transformer": "B", "parameters": T2I_B, "text_encoder": None}
    folder = write_model(tmp_path / "t2i-b", "llamagen-t2i-xl-256", "t2i_B.pt", spoil, tokenizer, **sizes)
    serve = ["serve", "--data-dir", str(tmp_path / "var"), "--model", str(folder)]
    command = [sys.executable, "-m", "service.cli", *serve]
    done = subprocess.run(command, capture_output=True, text=True, timeout=READY_SECONDS)
    assert done.returncode != 0
    assert "t2i_B.pt" in done.stderr
    assert says in done.stderr
    assert "run" not in done.stdout.split()


def finished(client: httpx.Client, job: str) -> dict[str, Any]:
    deadline = time.monotonic() + DRAWN_SECONDS
    while (answer := client.get(job).raise_for_status().json())["status"] in ("queued", "running"):
        assert time.monotonic() < deadline, "not drawn in time"
        time.sleep(1)
    return answer

"""The public files of every family load; wrong, damaged and hostile ones are rejected with their name."""

from __future__ import annotations

import json
import random
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.models import registry
from engine.models.checkpoint import CheckpointError, load_state
from tests.support.tiny import golden, golden_folder

GOLDEN = {
    "arpg": "arpg_tiny",
    "llamagen": "llamagen_tiny",
    "llamagen-t2i": "llamagen_t2i_tiny",
    "par": "par4_tiny",
}
STATES = {family: golden(f"{name}.weights") for family, name in GOLDEN.items()}
State = dict[str, torch.Tensor]

families = pytest.mark.parametrize("family", GOLDEN)


def load(folder: Path) -> registry.LoadedModel:
    return registry.load(folder, device=torch.device("cpu"), dtype=torch.float32)


def described(folder: Path, family: str, change: dict[str, Any]) -> Path:
    """A golden folder with a changed model.json; None removes an entry."""
    golden_folder(folder, GOLDEN[family])
    description = json.loads((folder / "model.json").read_text()) | change
    (folder / "model.json").write_text(json.dumps({k: v for k, v in description.items() if v is not None}))
    return folder


@families
@pytest.mark.parametrize("container", ["model", "module", "state_dict", "raw, as FSDP saves it"])
@pytest.mark.parametrize("zipped", [True, False])
def test_the_public_containers_are_read(tmp_path: Path, family: str, container: str, zipped: bool) -> None:
    state = STATES[family]
    content = state if container.startswith("raw") else {container: state, "args": Namespace(lr=1.0)}
    folder = described(tmp_path / "model", family, {"weights": "public.pt"})
    torch.save(content, folder / "public.pt", _use_new_zipfile_serialization=zipped)
    loaded = load(folder).network.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


@families
def test_no_random_weights_are_drawn_only_to_be_replaced(tmp_path: Path, family: str) -> None:
    """Initialising billions of weights would take longer than reading the file."""
    folder = golden_folder(tmp_path / "model", GOLDEN[family])
    before = torch.get_rng_state()
    load(folder)
    assert torch.equal(torch.get_rng_state(), before)


WRONG: dict[str, tuple[Callable[[State], dict[Any, torch.Tensor]], str]] = {
    "a key missing": (lambda s: {k: v for k, v in s.items() if k != "norm.weight"}, "missing: norm.weight"),
    "a key too many": (lambda s: s | {"norm.bias": torch.zeros(64)}, "unexpected: norm.bias"),
    "another shape": (lambda s: s | {"norm.weight": torch.ones(65)}, r"norm.weight \(65,\) instead of \(64,\)"),
    "not a number": (lambda s: s | {"norm.weight": torch.full((64,), torch.nan)}, "not finite: norm.weight"),
    "infinity": (lambda s: s | {"norm.weight": torch.tensor([1.0] * 63 + [-torch.inf])}, "not finite: norm.weight"),
    "quantised": (
        lambda s: s | {"norm.weight": torch.ones(64, dtype=torch.int8)},
        "not plain floating point: norm.weight",
    ),
    "sparse": (lambda s: s | {"norm.weight": torch.ones(64).to_sparse()}, "not plain floating point: norm.weight"),
    "nothing but shapes": (
        lambda s: s | {"norm.weight": torch.ones(64, device="meta")},
        "not plain floating point: norm.weight",
    ),
    "numbered": (lambda s: dict(enumerate(s.values())), "holds no state dict"),
    "empty": (lambda s: {}, "holds no state dict"),
}


@families
@pytest.mark.parametrize("wrong", WRONG)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path, family: str, wrong: str) -> None:
    change, says = WRONG[wrong]
    folder = described(tmp_path / "model", family, {"weights": "wrong.pt"})
    torch.save({"model": change(STATES[family])}, folder / "wrong.pt")
    with pytest.raises(CheckpointError, match=rf"wrong\.pt.*{says}"):
        load(folder)


def test_one_familys_weights_do_not_pass_for_anothers(tmp_path: Path) -> None:
    raster = described(tmp_path / "raster", "par", {"family": "llamagen"})
    with pytest.raises(CheckpointError, match="does not fit LlamaGen: unexpected: spe_tok_embeddings"):
        load(raster)
    more = described(tmp_path / "more", "par", {"regions": 16})
    with pytest.raises(CheckpointError, match=r"special_embeddings\.weight \(3, 64\) instead of \(15, 64\)"):
        load(more)


@pytest.mark.parametrize("saved", ["the checkpoint", "a class-conditional one"])
def test_a_text_model_without_its_unconditional_rows_is_refused_with_the_reason(tmp_path: Path, saved: str) -> None:
    """The authors' own code would sample with random numbers."""
    folder = described(tmp_path / "model", "llamagen-t2i", {"weights": "t2i.pt"})
    state = STATES["llamagen-t2i" if saved == "the checkpoint" else "llamagen"]
    name = "cls_embedding.uncond_embedding"
    torch.save({"model": {key: value for key, value in state.items() if key != name}}, folder / "t2i.pt")
    with pytest.raises(CheckpointError, match=rf"t2i\.pt does not fit.*missing: .*{name}.*stands for no text"):
        load(folder)


def test_another_number_of_heads_is_refused_where_the_file_can_tell(tmp_path: Path) -> None:
    """The weights have the same shapes; the authors' rotary table, which some files hold, has not."""
    folder = described(tmp_path / "model", "llamagen-t2i", {"weights": "heads.pt"})
    state = STATES["llamagen-t2i"]
    torch.save({"model": state | {"freqs_cis": torch.zeros(12 + 64, 8, 2)}}, folder / "heads.pt")
    load(folder)
    torch.save({"model": state | {"freqs_cis": torch.zeros(12 + 64, 16, 2)}}, folder / "heads.pt")
    with pytest.raises(CheckpointError, match=r"n_head 4 makes heads of 8 rotated pairs, but freqs_cis is \(76, 16, 2"):
        load(folder)


@pytest.mark.parametrize(
    ("family", "change", "says"),
    [
        ("par", {"regions": None}, "KeyError: 'regions'"),
        ("par", {"regions": 8}, "regions: 8 equal regions"),
        ("par", {"regions": "4"}, "TypeError"),
        ("par", {"grid": [8, 9]}, "do not tile 8×9 cells"),
        ("par", {"family": "rar"}, "family: 'rar' is none of arpg, arpg-t2i, llamagen, llamagen-t2i, par"),
        ("llamagen", {"transformer": "XS"}, "transformer: there is no size XS; there are B, L"),
        ("llamagen", {"transformer": {"dim": 64, "n_layer": 2, "n_head": 3}}, "not a multiple of 4 · n_head 3"),
        ("llamagen", {"defaults": {"steps": 9, "top_k": 3}}, "defaults: this family has no steps"),
        ("llamagen", {"task_defaults": {"generate": {"steps": 9}}}, "task_defaults.generate: .* has no steps"),
        ("llamagen", {"defaults": {"guidance_interval": -2}}, "guidance_interval: must be between 0"),
        ("llamagen-t2i", {"text": {"rows": 0}}, "text: needs 1 to 1024 rows"),
        ("llamagen-t2i", {"text": {"width": "2048"}}, "TypeError"),
        ("llamagen-t2i", {"text": {"length": 120}}, "text: there is no length; it may have rows, width"),
        ("llamagen-t2i", {"transformer": {"dim": 64, "num_classes": 4}}, "this family has no num_classes"),
        ("llamagen-t2i", {"example_prompts": "a red mug"}, "example_prompts: 'a red mug' is no list of texts"),
        ("llamagen-t2i", {"example_prompts": ["a red mug", " "]}, "example_prompts: .* is no list of texts"),
        ("llamagen-t2i", {"example_prompts": [7]}, "example_prompts: .* is no list of texts"),
        ("llamagen-t2i", {"classes": "imagenet"}, "classes: this family takes text"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, family: str, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"model\.json: .*{says}"):
        load(described(tmp_path / "model", family, change))


class Hostile:
    """A pickle that would write a file when it is run."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_never_run(tmp_path: Path, zipped: bool) -> None:
    trace, path = tmp_path / "trace", tmp_path / "hostile.pt"
    torch.save({"model": STATES["par"], "extra": Hostile(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"hostile\.pt: not a readable checkpoint"):
        load_state(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the trap works"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
def test_a_damaged_file_is_refused_whatever_its_bytes_make_the_reader_raise(tmp_path: Path, kind: str) -> None:
    """A damaged file is rejected, or read if the damage is only in the numbers."""
    path = tmp_path / ("damaged.safetensors" if kind == "safetensors" else "damaged.pt")
    state = {key: value[:2].clone() for key, value in STATES["par"].items()}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state}, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for attempt in range(150):
        damaged = bytearray(whole)
        if attempt % 3 == 0:
            del damaged[rng.randrange(len(whole)) :]
        else:
            for _ in range(rng.choice([1, 5, 50])):
                damaged[rng.randrange(min(4000, len(whole)))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            load_state(path)
        except CheckpointError:
            refused += 1
    assert refused >= 50

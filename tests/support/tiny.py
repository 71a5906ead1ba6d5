"""Small models for tests: a folder around the golden weights, and one of any size with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from engine.codec.vq import VQConfig, VQModel
from engine.models.families import FAMILIES
from engine.request import TextFeatures
from engine.text.encoder import features_of
from engine.text.t5 import T5Config, T5Encoder

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def golden_config(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


SIZES = ("dim", "n_layer", "n_head", "multiple_of", "vocab_size", "num_classes")


def golden_transformer(name: str) -> dict[str, Any]:
    config = golden_config(name)["config"]
    return {size: config[size] for size in SIZES if size in config}


GOLDEN_TRANSFORMER = golden_transformer("arpg_tiny")
GOLDEN_TOKENIZER = {
    "codebook_size": 48,
    "codebook_dim": 8,
    "channels": 32,
    "channel_mult": [1, 2, 2],
    "z_channels": 32,
    "encoder_res_blocks": 1,
    "decoder_res_blocks": 1,
}


def write_folder(
    folder: Path,
    *,
    transformer: dict[str, Any],
    tokenizer: dict[str, Any],
    grid: tuple[int, int],
    name: str,
    family: str = "arpg",
    regions: int | None = None,
    text: dict[str, int] | None = None,
) -> dict[str, Any]:
    """model.json of a folder whose weights are FAMILY.safetensors and vq.safetensors. text: rows and width of the texts
    that it takes, in place of classes."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = [{"label": label, "name": f"class {label}"} for label in range(transformer.get("num_classes", 0))]
    description: dict[str, Any] = {
        "name": name,
        "family": family,
        "weights": f"{family}.safetensors",
        "transformer": transformer,
        "grid": grid,
        "tokenizer": {"weights": "vq.safetensors", **tokenizer},
        "classes": classes,
    }
    if regions:
        description["regions"] = regions
    if text:
        description["text"] = text
    (folder / "model.json").write_text(json.dumps(description))
    return description


def golden_folder(folder: Path, name: str = "arpg_tiny") -> Path:
    """A golden transformer (48 codes; ARPG on a 4×4 grid, the others on 8×8) and the golden VQ (4 pixels a token)
    as one model. That with text has 97 codes, and a VQ with random weights."""
    family, grid, regions = {
        "arpg_tiny": ("arpg", (4, 4), None),
        "llamagen_tiny": ("llamagen", (8, 8), None),
        "llamagen_t2i_tiny": ("llamagen-t2i", (8, 8), None),
        "par4_tiny": ("par", (8, 8), 4),
    }[name]
    config = golden_config(name)["config"]
    text = {"rows": config["cls_token_num"], "width": config["caption_dim"]} if family == "llamagen-t2i" else None
    tokenizer = random_tokenizer(config["vocab_size"]) if text else GOLDEN_TOKENIZER
    write_folder(
        folder,
        transformer=golden_transformer(name),
        tokenizer=tokenizer,
        grid=grid,
        name="golden",
        family=family,
        regions=regions,
        text=text,
    )
    (folder / f"{family}.safetensors").symlink_to(GOLDEN / f"{name}.weights.safetensors")
    if text:
        write_random_tokenizer(folder, tokenizer)
    else:
        (folder / "vq.safetensors").symlink_to(GOLDEN / "vq_tiny.weights.safetensors")
    return folder


def random_text(seed: int, rows: int, width: int = 8) -> TextFeatures:
    return features_of(np.random.default_rng(seed).standard_normal((rows, width)))


def random_tokenizer(codes: int) -> dict[str, Any]:
    return {
        "codebook_size": codes, "codebook_dim": 8, "channels": 32, "channel_mult": [1, 1],
        "z_channels": 32, "encoder_res_blocks": 1, "decoder_res_blocks": 1,
    }  # fmt: skip


def write_random_tokenizer(folder: Path, sizes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items()}
    save_file(VQModel(VQConfig(**config)).state_dict(), folder / "vq.safetensors")


def random_folder(
    folder: Path,
    *,
    family: str = "arpg",
    name: str = "random",
    regions: int = 4,
    dim: int = 64,
    n_layer: int = 4,
    n_head: int = 2,
    codes: int = 64,
    num_classes: int = 4,
    grid: tuple[int, int] = (8, 8),
    text_rows: int = 12,
    text_width: int = 8,
    text_encoder: bool = False,
) -> Path:
    """A model with random weights, spread enough that its distributions are neither flat nor certain. regions:
    of PAR alone. text_rows, text_width: of families with text, which have no classes. text_encoder: with an encoder of
    that width, too."""
    text = {"rows": text_rows, "width": text_width} if family.endswith("-t2i") else None
    transformer = {"dim": dim, "n_layer": n_layer, "n_head": n_head, "multiple_of": 32, "vocab_size": codes}
    if text is None:
        transformer["num_classes"] = num_classes
    tokenizer = random_tokenizer(codes)
    description = write_folder(
        folder,
        transformer=transformer,
        tokenizer=tokenizer,
        grid=grid,
        name=name,
        family=family,
        regions=regions if family == "par" else None,
        text=text,
    )
    if text_encoder:
        entry = random_t5(folder / "t5", width=text_width)
        description["text_encoder"] = {name: f"t5/{file}" for name, file in entry.items()}
        (folder / "model.json").write_text(json.dumps(description))
    generator = torch.Generator().manual_seed(0)
    network = FAMILIES[family](description, grid).network
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5 * parameter.shape[-1] ** -0.5, generator=generator)
    head = network.get_parameter("head.weight" if family.startswith("arpg") else "output.weight")
    torch.nn.init.normal_(head, std=1.5 * dim**-0.5, generator=generator)
    for buffer in network.buffers():
        torch.nn.init.normal_(buffer, generator=generator)
    save_file(network.state_dict(), folder / f"{family}.safetensors")
    write_random_tokenizer(folder, tokenizer)
    return folder


T5_WORDS = (
    "a an the of on in and two one left right with above next to photo picture "
    "red green blue yellow purple orange white black grey pink cube ball mug lamp cone ring chair tree house floor sky"
)


def random_t5(folder: Path, *, width: int = 32, layers: int = 2, seed: int = 0) -> dict[str, str]:
    """A text encoder of the public format with random weights, and a tokenizer that knows the letters and a few words.
    Returns the "text_encoder" of a model.json in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = t5_tokenizer()
    sizes = {
        "vocab_size": tokenizer.get_vocab_size() + 3, "d_model": width, "d_kv": 12, "d_ff": 2 * width,
        "num_layers": layers, "num_heads": 3,
    }  # fmt: skip
    public = {"model_type": "t5", "feed_forward_proj": "gated-gelu", "eos_token_id": 1, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(sizes | public))
    network = T5Encoder(T5Config(**sizes))
    network.init_weights(torch.Generator().manual_seed(seed))
    save_file(network.state_dict(), folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    return {"config": "config.json", "weights": "model.safetensors", "tokenizer": "tokenizer.json"}


def t5_tokenizer() -> Tokenizer:
    """As the public one: ids 0 to 2 are <pad>, </s>, <unk>, and each word starts with ▁."""
    special = ["<pad>", "</s>", "<unk>"]
    words = [f"▁{word}" for word in T5_WORDS.split()]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'\"-+"]
    scores = [(piece, 0.0) for piece in special] + [(w, -3.0) for w in words] + [(x, -6.0) for x in letters]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(special)
    return tokenizer


def save_shards(folder: Path, state: dict[str, torch.Tensor]) -> dict[str, str]:
    """Writes weights as model.safetensors.index.json and two files, as the hub has large ones. Key → file."""
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    places = {key: names[number % 2] for number, key in enumerate(sorted(state))}
    for name in names:
        save_file({key: state[key] for key, place in places.items() if place == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return places

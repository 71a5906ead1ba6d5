"""A text encoder and the ARPG that draws from its features, trained together."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.arpg import ARPGConfig, TextARPG
from engine.request import TextSizes
from engine.text.t5 import T5Config, T5Encoder
from engine.training.forward import rotation_table, training_logits
from engine.training.prompts.vocabulary import END_ID, PAD_ID, caption_tokenizer


class PromptedARPG(nn.Module):
    """Captions come as int64 (B, n): token ids with PAD_ID on the left. Where a caption is dropped, the bitwise not of
    each id stands in its place: the unconditional row of this position, also at padding that is given so."""

    def __init__(self, demo: dict[str, Any]) -> None:
        """demo: one of DEMOS with a text encoder."""
        super().__init__()
        text = TextSizes(**demo["text"])
        self.text_encoder = T5Encoder(encoder_config(demo))
        self.transformer = TextARPG(ARPGConfig(**demo["transformer"], num_classes=0), text)
        unconditional = torch.randn(text, generator=torch.Generator().manual_seed(0))
        self.transformer.cls_embedding.uncond_embedding = unconditional / text.width**0.5  # as published; not trained

    def condition(self, captions: Tensor) -> tuple[Tensor, Tensor]:
        """The rows in front of the tokens (B, n, dim), and which of them are padding (B, n)."""
        embedding = self.transformer.cls_embedding
        dropped = captions < 0
        ids = torch.where(dropped, ~captions, captions)
        features = self.text_encoder(ids, ids != PAD_ID)
        null = embedding.uncond_embedding[-ids.shape[1] :].to(features.dtype)
        return embedding(torch.where(dropped[..., None], null, features)), captions == PAD_ID


class AnyOrderOfText:
    """The objective of ARPG, with captions in place of classes."""

    def __init__(self, network: PromptedARPG, grid: tuple[int, int]) -> None:
        self._rotation = rotation_table(network.transformer, grid)

    def __call__(self, network: PromptedARPG, ids: Tensor, captions: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 (B, L, vocab_size) and the tokens (B, L) that they predict."""
        condition, padding = network.condition(captions)
        rotation = self._rotation.to(ids.device)
        logits = training_logits(network.transformer, condition, ids, orders, rotation, padding)
        return logits, ids.gather(1, orders)


def encoder_config(demo: dict[str, Any]) -> T5Config:
    words = caption_tokenizer().get_vocab_size()
    return T5Config(vocab_size=words, d_model=demo["text"]["width"], **demo["encoder"])


def public_config(config: T5Config) -> dict[str, Any]:
    """The config.json of the public encoders."""
    special = {"eos_token_id": END_ID, "pad_token_id": PAD_ID}
    return {"model_type": "t5", "feed_forward_proj": "gated-gelu"} | special | asdict(config)


def from_class_weights(weights: dict[str, Tensor], config: ARPGConfig) -> dict[str, Tensor]:
    """What a class-conditional ARPG of the same sizes has for a PromptedARPG: all but the condition."""
    kept = {name: value for name, value in weights.items() if name != "embeddings.weight"}
    kept["embeddings.weight"] = weights["embeddings.weight"][: config.mask_id + 1]
    return {f"transformer.{name}": value for name, value in kept.items()}

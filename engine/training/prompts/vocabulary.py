"""The tokenizer of the demo's text encoder: one token for each word that a caption can have, and one for a comma."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from engine.text.encoder import END
from engine.training.world.scenes.captions import vocabulary

PAD, UNKNOWN = "<pad>", "<unk>"
SPECIAL = (PAD, END, UNKNOWN)
PAD_ID, END_ID, UNKNOWN_ID = range(len(SPECIAL))
"""As in the public vocabularies of T5."""


def caption_tokenizer() -> Tokenizer:
    """Other words become <unk>; other punctuation is left out."""
    words = {word: index for index, word in enumerate((*SPECIAL, ",", *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s,]"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, END_ID)])
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def padded(ids: Sequence[Sequence[int]], rows: int) -> Tensor:
    """int64 (texts, rows): token ids with padding on the left."""
    table = torch.full((len(ids), rows), PAD_ID)
    for row, tokens in zip(table, ids, strict=True):
        row[rows - len(tokens) :] = torch.tensor(tokens)
    return table

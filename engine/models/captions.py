"""Text as a condition: the network that turns a text encoder's features into rows, and where the rows of current
requests lie."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.request import TextFeatures, TextSizes


class CaptionProjection(nn.Module):
    """fc2(gelu(fc1 x)), with the tanh form of GELU and without biases: (rows, width) → (rows, dim)."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, dim, bias=False)
        self.fc2 = nn.Linear(dim, dim, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(features), approximate="tanh"))


class CaptionEmbedding(nn.Module):
    """uncond_embedding (rows, width): stands for "no text". It is trained and projected like the features of a text, so
    a checkpoint without it can't be used: its place would be taken by numbers that mean nothing."""

    uncond_embedding: Tensor

    def __init__(self, sizes: TextSizes, dim: int) -> None:
        super().__init__()
        self.cap_proj = CaptionProjection(sizes.width, dim)
        self.register_buffer("uncond_embedding", torch.zeros(sizes.rows, sizes.width))

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings (rows, dim) of features (rows, width)."""
        return self.cap_proj(features)


class TextRows:
    """The rows of texts in a table of embeddings: from the id null_id on the unconditional ones, and behind them places
    for texts, each for as many rows as a text has at most.

    table (ids, dim): a captured graph reads it at its address, so texts are written into it.
    """

    def __init__(self, tokens: nn.Embedding, captions: CaptionEmbedding, places: int) -> None:
        """tokens: their table becomes a part of this one."""
        vectors, null = tokens.weight.detach(), captions.uncond_embedding
        self.sizes = TextSizes(*null.shape)
        self.null_id = tokens.num_embeddings
        self.first_id = self.null_id + self.sizes.rows
        self.places = places
        self._embed = captions
        self.table = vectors.new_zeros(self.first_id + places * self.sizes.rows, vectors.shape[1])
        self.table[: self.null_id] = vectors
        tokens.weight = nn.Parameter(self.table[: self.null_id], requires_grad=False)
        self.table[self.null_id : self.first_id] = captions(null)

    @torch.inference_mode()
    def write(self, first: int, text: TextFeatures) -> None:
        """Write a text's embeddings to the ids from `first` on. A text is projected alone, so that its rows have the
        same bits whatever other texts there are."""
        features = torch.tensor(text.rows).to(self.table)
        self.table[first : first + len(features)] = self._embed(features)

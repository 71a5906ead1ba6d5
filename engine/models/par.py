"""PAR: a LlamaGen with learned special tokens that begin the parallel part (arXiv 2412.15119)."""

from __future__ import annotations

from torch import nn

from engine.models.llamagen import LlamaGen, LlamaGenConfig


class SpecialTokens(nn.Module):
    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.special_embeddings = nn.Embedding(count, dim)


class PAR(LlamaGen):
    """regions: tokens that a step draws once the first token of every region is drawn."""

    def __init__(self, config: LlamaGenConfig, regions: int) -> None:
        super().__init__(config)
        self.spe_tok_embeddings = SpecialTokens(regions - 1, config.dim)

    @property
    def embedding_tables(self) -> list[nn.Embedding]:
        return [*super().embedding_tables, self.spe_tok_embeddings.special_embeddings]

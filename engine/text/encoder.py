"""Prompts as features: cleaned, divided into token ids, encoded by T5."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer

from engine.codec.placement import Placement, placement_on
from engine.request import RequestError, TextFeatures
from engine.text.cleaning import clean_caption, dropped_words
from engine.text.feature_cache import FeatureCache
from engine.text.t5 import T5Encoder

MAX_ROWS = 120
"""What the published models read of a prompt, in tokens, with the </s> that ends it."""
END = "</s>"
CACHE_BYTES = 64 * 2**20
"""About 70 prompts of 120 rows of the width 2048; most are a tenth as long."""


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """How the encoder reads a prompt. cleaned: the caption. ids: its token ids, with </s>. dropped: words of the prompt
    that the cleaning removed, in whole or in part. unread: the end of the caption, from the first word that does not
    fit into the rows. unknown: words that the vocabulary lacks, or some characters of them; the encoder sees an <unk>
    there."""

    cleaned: str
    ids: tuple[int, ...]
    dropped: tuple[str, ...]
    unread: str
    unknown: tuple[str, ...]

    @property
    def truncated(self) -> bool:
        return bool(self.unread)


class TextEncoder:
    """Takes the network over, on its device and in its precision. fingerprint: of the files. width: of a row.
    Thread-safe. A prompt is encoded alone and without padding, so its features don't depend on other prompts.

    Raises ValueError when the tokenizer does not end texts with </s>, or has ids that the network lacks."""

    max_rows = MAX_ROWS

    def __init__(
        self,
        network: T5Encoder,
        tokenizer: Tokenizer,
        fingerprint: str,
        *,
        cache_bytes: int = CACHE_BYTES,
        placement: Placement | None = None,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if tokenizer.encode("").tokens != [END] or tokenizer.encode("a").tokens[-1] != END:
            raise ValueError(f"its post_processor must add {END} behind each text, and nothing else")
        if (size := max(tokenizer.get_vocab().values()) + 1) > network.config.vocab_size:
            raise ValueError(f"it has {size} ids, and the encoder's vocab_size is {network.config.vocab_size}")
        self.fingerprint = fingerprint
        self.width = network.config.d_model
        self._network = network.eval()
        self._tokenizer = tokenizer
        self._unknown = tokenizer.token_to_id("<unk>")
        self._cache = FeatureCache(cache_bytes)
        self._placement = placement or placement_on(network.shared.weight.device)

    def read(self, text: str, field: str = "prompt") -> ReadPrompt:
        """What the encoder reads of a text. Of a longer one it reads the first 119 tokens, and </s>.

        Raises RequestError with the field when nothing is left of a text that was not blank."""
        cleaned = clean_caption(text)
        if not cleaned and text.strip():
            raise RequestError(
                field,
                "nothing is left of it after cleaning, which drops Chinese characters, links, names of files and "
                "numbers of articles, as in the training of the model. Describe the picture in English words",
            )
        encoding = self._tokenizer.encode(cleaned)
        ids = encoding.ids
        unread = ""
        if len(ids) > self.max_rows:
            unread = _from_word(cleaned, encoding.offsets[self.max_rows - 1][0])
            ids = [*ids[: self.max_rows - 1], ids[-1]]
        dropped = dropped_words(text, cleaned)
        return ReadPrompt(cleaned, tuple(ids), dropped, unread, self._unknown_words(cleaned, encoding))

    def truncated(self, text: str) -> bool:
        """Whether the text is longer than what the encoder reads. Raises RequestError, as read does."""
        return self.read(text).truncated

    def encode(self, text: str, field: str = "prompt") -> TextFeatures:
        """A row for each token id, with </s> as the last: 1 … 120 rows. They can't be written to, because others get
        the same ones. Raises RequestError, as read does."""
        ids = self.read(text, field).ids
        features = self._cache.get(ids)
        if features is None:
            features = features_of(self._encode(ids))
            self._cache.put(ids, features)
        return features

    @torch.inference_mode()
    def _encode(self, ids: tuple[int, ...]) -> np.ndarray:
        with self._placement.working():
            [rows] = self._network(self._placement.upload(np.array([ids])))
            return self._placement.download(rows.float())

    def _unknown_words(self, cleaned: str, encoding: Encoding) -> tuple[str, ...]:
        read = zip(encoding.ids[: self.max_rows - 1], encoding.offsets, strict=False)
        starts = [start for token, (start, _) in read if token == self._unknown]
        return tuple(dict.fromkeys(_from_word(cleaned, start).partition(" ")[0] for start in starts))


def features_of(rows: np.ndarray) -> TextFeatures:
    """Features with these rows, float32 (n, width), which can't be written to from now on."""
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    rows.setflags(write=False)
    return TextFeatures(rows, hashlib.sha256(repr(rows.shape).encode() + rows.tobytes()).hexdigest())


def _from_word(text: str, start: int) -> str:
    """The text from the first letter of the word at `start`, or of the next word when `start` is a space."""
    if text[start] == " ":
        return text[start + 1 :]
    return text[text.rfind(" ", 0, start) + 1 :]

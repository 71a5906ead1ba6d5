"""A prompt becomes the rows of its valid tokens; what is not read of it can be asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.request import RequestError, TextFeatures
from engine.text.encoder import TextEncoder, features_of
from engine.text.feature_cache import FeatureCache
from engine.text.t5 import T5Config, T5Encoder
from tests.support.tiny import t5_tokenizer

END = 1  # the id of </s>


def small_encoder(cache_bytes: int = 2**20) -> TextEncoder:
    sizes = {"vocab_size": 96, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    network = T5Encoder(T5Config(**sizes))
    network.init_weights(torch.Generator().manual_seed(0))
    return TextEncoder(network, t5_tokenizer(), "small", cache_bytes=cache_bytes)


def test_a_prompt_has_a_row_for_each_token_and_one_for_the_end(encoder: TextEncoder) -> None:
    features = encoder.encode("A  red cube")
    assert encoder.read("A  red cube").cleaned == "a red cube"
    assert encoder.read("A  red cube").ids[-1] == END
    assert features.rows.shape == (len(encoder.read("A  red cube").ids), encoder.width) == (4, 32)
    assert features.rows.dtype == np.float32


@pytest.mark.parametrize("blank", ["", "  \n"])
def test_an_empty_prompt_has_one_row(encoder: TextEncoder, blank: str) -> None:
    assert encoder.read(blank).ids == (END,)
    assert encoder.encode(blank).rows.shape[0] == 1


@pytest.mark.parametrize("text", ["猫", "https://example.com", "IMG_1234.jpg", "#12345", "<br>"])
def test_a_prompt_that_cleans_to_nothing_is_refused_with_its_field(encoder: TextEncoder, text: str) -> None:
    with pytest.raises(RequestError, match=r"negative_prompt: nothing is left .* Describe the picture in English"):
        encoder.encode(text, field="negative_prompt")


def test_a_long_prompt_ends_after_119_tokens_and_the_words_that_fell_away_are_known(encoder: TextEncoder) -> None:
    fits = "red cube " * 59 + "red"
    assert len(encoder.read(fits).ids) == encoder.max_rows == 120
    assert not encoder.truncated(fits)
    assert encoder.read(fits).unread == ""

    read = encoder.read(fits + " ball, xyz")
    assert encoder.truncated(fits + " ball, xyz")
    assert read.unread == "ball, xyz"
    assert read.ids == encoder.read(fits).ids
    assert encoder.encode(fits + " ball, xyz").digest == encoder.encode(fits).digest


def test_a_word_that_is_cut_counts_as_unread(encoder: TextEncoder) -> None:
    read = encoder.read("red cube " * 58 + "red cobalt mug")  # ▁, c end the 119
    assert len(read.ids) == 120
    assert read.unread == "cobalt mug"


def test_words_that_cleaning_drops_are_named(encoder: TextEncoder) -> None:
    assert encoder.read("a red 猫 on a floor").dropped == ("猫",)
    assert encoder.read("a red cube").dropped == ()


def test_words_that_the_vocabulary_lacks_are_named_once(encoder: TextEncoder) -> None:
    read = encoder.read("a çube on a \N{CAT FACE} floor, çube of ñ")
    assert read.unknown == ("çube", "\N{CAT FACE}", "ñ")
    assert encoder.read("a red cube").unknown == ()


def test_rows_without_padding_are_those_of_a_padded_batch() -> None:
    encoder = small_encoder()
    texts = ["", "a red cube", "two yellow lamps left of a black tree"]
    ids = [list(encoder.read(text).ids) for text in texts]
    padded = torch.tensor([[*one, *[0] * (120 - len(one))] for one in ids])
    valid = torch.arange(120) < torch.tensor([[len(one)] for one in ids])
    with torch.inference_mode():
        batch = encoder._network(padded, valid)
    for text, one, rows in zip(texts, ids, batch, strict=True):
        np.testing.assert_allclose(encoder.encode(text).rows, rows[: len(one)].numpy(), atol=1e-5)


def test_features_of_other_prompts_do_not_matter_and_threads_get_the_same() -> None:
    texts = ["a red cube", "a blue ball", "two lamps", "", "a cobalt chair"] * 20
    alone = {text: small_encoder().encode(text).digest for text in set(texts)}
    shared = small_encoder(cache_bytes=600)  # so that entries are dropped while others are added
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda text: shared.encode(text).digest, texts)) == [alone[text] for text in texts]


def test_equal_prompts_are_encoded_once(encoder: TextEncoder) -> None:
    first = encoder.encode("a pink ring")
    assert encoder.encode(" A pink   ring ") is first
    with pytest.raises(ValueError, match="read-only"):
        first.rows[0, 0] = 1


def test_the_digest_is_that_of_the_rows() -> None:
    rows: np.ndarray = np.arange(6, dtype=np.float32)
    same = features_of(rows.reshape(2, 3).copy())
    assert same == features_of(rows.reshape(2, 3).copy())
    assert hash(same) == hash(features_of(rows.reshape(2, 3).copy()))
    assert same != features_of(rows.reshape(3, 2).copy())
    assert same != features_of((rows + 1).reshape(2, 3))


def features(rows: int) -> TextFeatures:
    return features_of(np.zeros((rows, 25), np.float32))  # 100 bytes a row


def test_the_cache_drops_what_was_used_least_recently_and_keeps_to_its_bytes() -> None:
    cache = FeatureCache(1000)
    cache.put((1,), features(5))
    cache.put((2,), features(4))
    assert cache.get((1,)) is not None
    cache.put((3,), features(4))
    assert [cache.get((key,)) is not None for key in (1, 2, 3)] == [True, False, True]
    cache.put((4,), features(11))  # larger than the cache
    assert cache.get((4,)) is None
    assert cache.bytes == 0


@settings(max_examples=60)
@given(text=st.text(st.characters()) | st.text("%<>&!-[]#@.;:/\\\"'aé1\ud83d ", max_size=40))
def test_any_text_is_read_or_refused(encoder: TextEncoder, text: str) -> None:
    try:
        read = encoder.read(text)
    except RequestError:
        return
    assert 1 <= len(read.ids) <= 120


def test_a_tokenizer_that_does_not_fit_is_refused() -> None:
    sizes = {"vocab_size": 40, "d_model": 4, "d_kv": 4, "d_ff": 4, "num_layers": 1, "num_heads": 1}
    with pytest.raises(ValueError, match="ids, and the encoder's vocab_size is 40"):
        TextEncoder(T5Encoder(T5Config(**sizes)), t5_tokenizer(), "small")
    tokenizer = t5_tokenizer()
    tokenizer.post_processor = None
    with pytest.raises(ValueError, match="must add </s> behind each text"):
        TextEncoder(T5Encoder(T5Config(**sizes | {"vocab_size": 96})), tokenizer, "small")

"""Palettes are stored as pictures and computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.codec import palettes
from engine.codec.codec import Codec, Stopped
from engine.codec.serving import Serving
from engine.codec.vq import VQConfig, VQModel

CONFIG = VQConfig(codebook_size=40, channels=32, channel_mult=(1, 1), z_channels=32, encoder_res_blocks=1)


@pytest.mark.parametrize("codes", [1, 31, 32, 40])
def test_a_palette_is_read_as_it_was_saved(tmp_path: Path, codes: int) -> None:
    patches = np.random.default_rng(codes).integers(0, 256, (codes, 4, 4, 3), dtype=np.uint8)
    palettes.save(tmp_path / "palette.png", patches)
    assert np.array_equal(palettes.load(tmp_path / "palette.png", codes), patches)


def test_a_palette_with_too_few_patches_is_refused(tmp_path: Path) -> None:
    palettes.save(tmp_path / "palette.png", np.zeros((32, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="32 patches for 33 codes"):
        palettes.load(tmp_path / "palette.png", 33)


def test_a_palette_is_made_once_and_kept_for_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    made = Codec(VQModel(CONFIG).eval(), "a").palette()
    assert made.shape == (40, 4, 4, 3)
    monkeypatch.setattr(Serving, "decode", None)  # computing a palette again fails
    assert np.array_equal(Codec(VQModel(CONFIG).eval(), "a").palette(), made)
    with pytest.raises(TypeError):
        Codec(VQModel(CONFIG).eval(), "another tokenizer").palette()


def test_a_palette_in_the_making_can_be_given_up() -> None:
    codec = Codec(VQModel(CONFIG).eval(), "given up")
    asked = iter([False, True])
    with pytest.raises(Stopped):
        codec.palette(lambda: next(asked))
    assert not palettes.cached("given up").exists()


def test_a_damaged_palette_in_the_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tokenizer = VQModel(CONFIG).eval()
    made = Codec(tokenizer, "a").palette()
    palettes.cached("a").write_bytes(palettes.cached("a").read_bytes()[:50])
    assert np.array_equal(Codec(tokenizer, "a").palette(), made)
    assert np.array_equal(palettes.load(palettes.cached("a"), 40), made)


def test_a_cache_that_can_not_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert Codec(VQModel(CONFIG).eval(), "a").palette().shape == (40, 4, 4, 3)

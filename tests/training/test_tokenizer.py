"""Training of the tokenizer: the loss falls, and an interrupted run gives the same result as an uninterrupted one."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from engine.codec.vq import VQConfig
from engine.training.export import palette
from engine.training.group_norm import quicken_group_norm
from engine.training.loop import load_checkpoint, save_checkpoint
from engine.training.tokenizer import TokenizerTrainer
from tests.support.training import CPU, TINY_VQ, VQ_RECIPE, assert_same, tokenizer_run


def test_a_tokenizer_run_cut_in_two_is_the_run_in_one_piece(tmp_path: Path) -> None:
    whole = TokenizerTrainer(TINY_VQ, VQ_RECIPE, CPU)
    tokenizer_run(whole, 8)
    first = TokenizerTrainer(TINY_VQ, VQ_RECIPE, CPU)
    tokenizer_run(first, 5)
    save_checkpoint(tmp_path / "vq.pt", first.state())
    second = TokenizerTrainer(TINY_VQ, VQ_RECIPE, CPU)
    state = load_checkpoint(tmp_path / "vq.pt", CPU)
    assert state is not None
    second.restore(state)
    tokenizer_run(second, 3)
    assert_same(second.state(), whole.state())


def test_tokenizer_steps_bring_the_picture_nearer() -> None:
    errors = tokenizer_run(TokenizerTrainer(TINY_VQ, VQ_RECIPE, CPU), 24)
    assert sum(errors[-4:]) < 0.7 * sum(errors[:4])


def test_the_quick_group_norm_has_torchs_gradients() -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 16)
    nn.init.normal_(norm.weight)
    x = (torch.randn(2, 16, 6, 5) + 1).contiguous(memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn_like(x)
    expected = torch.autograd.grad(norm(x), (x, norm.weight, norm.bias), upstream)
    quick = copy.deepcopy(norm)
    quicken_group_norm(quick)
    found = torch.autograd.grad(quick(x), (x, quick.weight, quick.bias), upstream)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_palette_is_the_mean_patch_of_each_code() -> None:
    images = torch.zeros(1, 3, 8, 16, dtype=torch.uint8)
    images[:, :, :, 8:] = 200
    images[:, :, 4:, :8] = 100
    config = VQConfig(codebook_size=3, channel_mult=(1, 1, 1, 1))
    patches = palette(torch.tensor([[2, 1]]), images, config)
    assert patches.shape == (3, 4, 4, 3)
    assert (patches[1] == 200).all()
    assert (patches[2][:2] == 0).all()
    assert (patches[2][2:] == 100).all()

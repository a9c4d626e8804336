"""Rewritten convolutions give what the ones they replace do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from facexlib.parsing.parsenet import ConvLayer, ParseNet
from spandrel.architectures.GFPGAN.__arch.gfpganv1_clean_arch import GFPGANv1Clean, ResBlock
from spandrel.architectures.GFPGAN.__arch.stylegan2_clean_arch import ModulatedConv2d
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from restoration.modulation import fold_modulation
from restoration.upsampling import rewrite_upsampling


def gfpgan() -> Any:  # noqa: ANN401
    return GFPGANv1Clean(
        out_size=512,
        channel_multiplier=2,
        decoder_load_path=None,
        input_is_latent=True,
        different_w=True,
        narrow=1,
        sft_half=True,
    )


def convolution() -> nn.Module:
    return nn.ModuleList([ModulatedConv2d(6, 5, 3, num_style_feat=4, sample_mode="upsample")])


def up_block() -> nn.Module:
    return nn.ModuleList([ResBlock(6, 5, mode="up")])


def layer() -> nn.Module:
    return nn.ModuleList([ConvLayer(6, 5, 3, scale="up", norm_type="bn", relu_type="leakyrelu")])


def shortcut() -> nn.Module:
    return nn.ModuleList([ConvLayer(6, 5, 3, scale="up")])


@pytest.mark.parametrize("make", [convolution, up_block, layer, shortcut])
@pytest.mark.parametrize("size", [(2, 2), (4, 4), (5, 9)])
def test_the_result_is_the_same_but_for_rounding(make: Any, size: tuple[int, int]) -> None:  # noqa: ANN401
    torch.manual_seed(1)
    [original] = plain = make().eval().requires_grad_(False)
    [rewritten] = holder = copy.deepcopy(plain)
    fold_modulation(holder, bounded=False)
    rewrite_upsampling(holder)
    assert type(holder[0]) is not type(rewritten)
    inputs = [torch.randn(2, 6, *size)]
    if make is convolution:
        inputs.append(torch.randn(2, 4))
    torch.testing.assert_close(holder[0](*inputs), original(*inputs), rtol=1e-5, atol=1e-5)


def test_layers_that_enlarge_nothing_stay() -> None:
    holder = nn.ModuleList([ResBlock(6, 5, mode="down"), ConvLayer(6, 5, 3), ConvLayer(6, 5, 3, scale="down")])
    before = list(holder)
    rewrite_upsampling(holder)
    assert list(holder) == before


@pytest.mark.parametrize(
    ("make", "before", "after"),
    [(gfpgan, 396, 304), (lambda: ParseNet(512, 512, parsing_ch=19), 469, 360)],
    ids=["GFPGAN", "ParseNet"],
)
def test_the_networks_need_fewer_products(make: Any, before: int, after: int) -> None:  # noqa: ANN401
    with torch.device("meta"):
        holder = nn.ModuleList([make()]).eval()
        fold_modulation(holder, bounded=False)
        assert gigaflops(holder[0]) == before
        rewrite_upsampling(holder)
        assert gigaflops(holder[0]) == after


def gigaflops(network: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.empty(1, 3, 512, 512))
    flops: int = counter.get_total_flops()
    return round(flops / 1e9)

"""Convolutions of features that were just enlarged, rewritten to need half the products: for the CPU.

Enlarging and convolving are both linear, so that they may be taken apart and joined anew; the results are the same but
for rounding. A GPU has products to spare, and would rather not move the intermediate features.
"""

from __future__ import annotations

from typing import Any

import torch
from facexlib.parsing.parsenet import ConvLayer
from spandrel.architectures.GFPGAN.__arch.gfpganv1_clean_arch import ResBlock
from torch import Tensor, nn
from torch.nn import functional

from restoration.modulation import EnlargingConvolution


def rewrite_upsampling(module: nn.Module) -> None:
    """Replace what can be rewritten inside of GFPGAN or ParseNet."""
    for name, child in module.named_children():
        if isinstance(child, ConvLayer) and _enlarges(child):
            setattr(module, name, _NearestAndConvolution(child))
        elif isinstance(child, ResBlock) and child.scale_factor == 2:
            setattr(module, name, _UpBlock(child))
        elif isinstance(child, EnlargingConvolution):
            setattr(module, name, _RowsFirst(child.weight))
        else:
            rewrite_upsampling(child)


class _RowsFirst(nn.Module):
    """An `EnlargingConvolution` of 3x3 pixels with half the products.

    Every row of the kernel convolves before the features grow in height: as many products, on half the pixels.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        # by themselves, and copied: as views, all would stay in memory while they are converted
        self.above, self.same, self.below = (nn.Parameter(row.clone(), False) for row in torch.split(weight, 1, dim=2))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', 2 * H, 2 * W)."""
        wide = _enlarged(features, 1, 2)
        result = _enlarged(functional.conv2d(wide, self.same, padding=(0, 1)), 2, 1)
        # the other rows of the kernel look at the pixels above and below; beyond the border they are black
        for row, shift in (self.above, (0, 0, 1, -1)), (self.below, (0, 0, -1, 1)):
            other = _enlarged(functional.conv2d(wide, row, padding=(0, 1)), 2, 1)
            result = result + functional.pad(other, shift)
        return result


def _enlarged(features: Tensor, vertically: int, horizontally: int) -> Tensor:
    factors = (float(vertically), float(horizontally))
    return functional.interpolate(features, scale_factor=factors, mode="bilinear", align_corners=False)


class _UpBlock(nn.Module):
    """The block of GFPGAN's U-Net that enlarges."""

    def __init__(self, original: Any) -> None:  # noqa: ANN401  # spandrel has no types
        super().__init__()
        self.conv1, self.conv2, self.skip = original.conv1, _RowsFirst(original.conv2.weight), original.skip
        self.bias = original.conv2.bias

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', 2 * H, 2 * W)."""
        result = functional.leaky_relu(self.conv1(features), 0.2)
        result = functional.leaky_relu(self.conv2(result) + self.bias[:, None, None], 0.2)
        return result + _enlarged(self.skip(features), 2, 2)  # it weighs single pixels


class _NearestAndConvolution(nn.Module):
    """ParseNet's enlarging by repeated pixels, and the 3x3 convolution after it: one transposed 4x4 convolution.

    Of the nine pixels that a kernel sees, four differ. The padding mirrors the enlarged pixels without their edge,
    which repeats the small ones.
    """

    def __init__(self, original: Any) -> None:  # noqa: ANN401  # facexlib has no types
        super().__init__()
        weight = original.conv2d.weight.detach().transpose(0, 1)
        twice = torch.ones(weight.shape[1], 1, 2, 2)
        kernel = functional.conv2d(weight.flip(2, 3), twice, padding=1, groups=weight.shape[1])
        self.weight = nn.Parameter(kernel, requires_grad=False)
        self.bias, self.norm, self.relu = original.conv2d.bias, original.norm, original.relu

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', 2 * H, 2 * W)."""
        padded = functional.pad(features, (1, 1, 1, 1), mode="replicate")
        result = functional.conv_transpose2d(padded, self.weight, self.bias, stride=2, padding=3)
        return self.relu(self.norm(result))  # type: ignore[no-any-return]  # a tensor


def _enlarges(layer: Any) -> bool:  # noqa: ANN401  # facexlib has no types
    """Whether ParseNet's layer enlarges, which it keeps only as a function."""
    return layer.scale_func(torch.empty(1, 1, 1, 1)).shape[-1] == 2  # type: ignore[no-any-return]  # a bool

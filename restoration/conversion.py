"""From torch to OpenVINO: trace a network of `torch_networks`, uint8 images in and out, and translate the trace.

Imports torch, so it runs only where `converted` finds no model on the disk.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from spandrel.architectures.GFPGAN import GFPGAN
from spandrel.architectures.RestoreFormer import RestoreFormer
from torch import Tensor, nn
from torch.nn import functional

from restoration import torch_networks
from restoration.torch_networks import TorchNetwork, TorchUpscaler

_EXAMPLE_SIDE = 64  # pixels; only restorers care for the size, and want 512

_READERS: dict[str, Callable[[Path], TorchNetwork]] = {
    "restorer": lambda path: torch_networks.face_restorer(path, "cpu", "fp32"),
    "parser": lambda path: torch_networks.face_parser(path, "cpu", "fp32"),
    "resnet50": lambda path: torch_networks.face_detector(path, "resnet50", "cpu", "fp32"),
    "mobilenet0.25": lambda path: torch_networks.face_detector(path, "mobilenet0.25", "cpu", "fp32"),
    "upscaler": lambda path: torch_networks.upscaler(path, "cpu", "fp32"),
}


def convert(path: Path, kind: str) -> tuple[openvino.Model, dict[str, int]]:
    """Convert the checkpoint at `path` to a model that takes one image, (1, H, W, 3) uint8 RGB.

    Returns with it what a caller cannot see: "scale"; "multiple", of which H and W must be one; and "bf16", whether
    bf16 keeps the picture. Raises `WeightsCorrupt`, `OutOfMemory`.
    """
    network = _READERS[kind](path)
    if isinstance(network.module, GFPGAN):
        _fold_modulation(network.module)
    side = 512 if kind == "restorer" else _EXAMPLE_SIDE
    model = _translate(_trace(network, torch.zeros(1, side, side, 3, dtype=torch.uint8)))
    model.reshape([1, 512, 512, 3] if kind == "restorer" else [1, -1, -1, 3])
    return model, _facts(network)


def _facts(network: TorchNetwork) -> dict[str, int]:
    module, scale = network.module, network.scale if isinstance(network, TorchUpscaler) else 1
    # RRDB at scale 2 begins by making one pixel of 2x2; spandrel pads for it in a way that a trace cannot follow.
    multiple = getattr(module, "shuffle_factor", None) or 1
    return {"bf16": int(not isinstance(module, RestoreFormer)), "scale": scale, "multiple": multiple}


class _Traceable(nn.Module):
    """What is traced: the whole way from uint8 to uint8."""

    def __init__(self, network: TorchNetwork) -> None:
        super().__init__()
        self.module = network.module  # registered, so that its weights stay parameters
        self.compute = network.compute

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.compute(images)


def _trace(network: TorchNetwork, example: Tensor) -> Any:  # noqa: ANN401  # torch does not annotate it
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes that the trace fixes: the example's channels, which never vary
        # Checking a trace means to run the network twice more; the parity tests do it better.
        return torch.jit.trace(  # type: ignore[no-untyped-call]
            _Traceable(network), example, check_trace=False, strict=False
        )


def _translate(traced: Any) -> openvino.Model:  # noqa: ANN401
    """Use the frontend itself: `openvino.convert_model` would send usage statistics over the network, unasked."""
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # the frontend does not keep it alive
    return frontend.convert(frontend.load(decoder))


def _fold_modulation(module: nn.Module) -> None:
    """Let every modulated convolution keep its weights constant: the same algebra, exact in bf16 where it matters."""
    for name, child in module.named_children():
        if type(child).__name__ == "ModulatedConv2d":
            setattr(module, name, _ModulatedConvolution(child))
        else:
            _fold_modulation(child)


class _ModulatedConvolution(nn.Module):
    """StyleGAN2's modulated convolution, style and demodulation moved from the weights to the pixels around them.

    conv(x, w * style * demodulation) = demodulation * conv(x * style, w), for the one factor belongs to input channels
    and the other to output channels (Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020,
    section 2.2). The weights, prepared once, then serve every face, and bf16 rounds them once: converted as written,
    the network lies at 42 dB from fp32; like this at 47.
    """

    def __init__(self, original: Any) -> None:  # noqa: ANN401  # spandrel has no types
        super().__init__()
        self.modulation = original.modulation
        self.weight = original.weight[0]
        self.squares = original.weight[0].square().sum(dim=(2, 3)).T.contiguous()
        self.demodulate, self.eps = original.demodulate, original.eps
        self.upsample = original.sample_mode == "upsample"

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        factors = self.modulation(style)
        features = features * factors[:, :, None, None]
        if self.upsample:
            features = functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
        result = functional.conv2d(features, self.weight, padding=self.weight.shape[-1] // 2)
        if not self.demodulate:
            return result
        return result * torch.rsqrt(factors.square() @ self.squares + self.eps)[:, :, None, None]

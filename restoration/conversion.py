"""From torch to OpenVINO: trace a network of `torch_networks`, uint8 images in and out, and translate the trace.

Imports torch, so it runs only where `converted` finds no model on the disk.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openvino
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from spandrel.architectures.RestoreFormer import RestoreFormer
from torch import Tensor, nn

from restoration import torch_networks
from restoration.torch_networks import TorchNetwork, TorchUpscaler
from restoration.upsampling import rewrite_upsampling

_M_MMAP_THRESHOLD = -3  # of mallopt, from glibc's malloc.h
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
    side = 512 if kind == "restorer" else _EXAMPLE_SIDE
    with _freed_memory_given_back():
        network = _READERS[kind](path)
        rewrite_upsampling(network.module)
        model = _translate(_trace(network, torch.zeros(1, side, side, 3, dtype=torch.uint8)))
    model.reshape([1, 512, 512, 3] if kind == "restorer" else [1, -1, -1, 3])
    return model, _facts(network)


@contextmanager
def _freed_memory_given_back() -> Iterator[None]:
    """Have glibc give blocks of a megabyte and more back when freed; without glibc, change nothing.

    It would keep ever larger ones, in pieces that do not fit the next: 0.4 GB more for GFPGAN.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: None)
    mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # as far as it goes by itself


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

"""Checkpoint file -> network on a device at a precision: a function from a batch of uint8 images to a batch.

numpy in, numpy out: normalisation, channel order, clamping, rounding and argmax happen inside, on the device. A GPU is
torch's, a CPU is OpenVINO's: twice as fast there, and started in a tenth of the time. This module names what the
pipeline may ask for and imports no framework; that happens when the first network loads.

Every `load_...` raises `WeightsCorrupt` where the file is no checkpoint of that network, `OutOfMemory` and
`DeviceUnavailable`; every network raises `OutOfMemory`, after which it can be called again with a smaller batch.
`cache` is where a CPU's converted models are kept, see `restoration.converted`.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from restoration.errors import DeviceUnavailable

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16"]
Backbone = Literal["resnet50", "mobilenet0.25"]


class Network(Protocol):
    """A function from a batch to a batch of the same length; see the `load_...` function for shapes."""

    @property
    def nbytes(self) -> int:
        """Bytes that the parameters take on the device."""

    def __call__(self, batch: Images) -> Images:
        """Run the network on a batch of at least one image."""


@dataclass(frozen=True)
class Part:
    """What is wanted of an enlarged image: see `restoration.images.resize`."""

    size: tuple[int, int]
    """Width, height of the result."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom, in pixels of the enlarged image."""


class Upscaler(Network, Protocol):
    """A network whose images come out `scale` times as large."""

    @property
    def scale(self) -> int:
        """Output pixels per input pixel, along each side."""

    def resampled(self, batch: Images, parts: Sequence[Part]) -> list[Images]:
        """Run the network, and resample of every result its part with Lanczos."""


class FaceDetector(Protocol):
    """A function from one photo to RetinaFace's raw output, one row for each of its A anchors."""

    @property
    def nbytes(self) -> int:
        """Bytes that the parameters take on the device."""

    def __call__(self, photo: Images) -> tuple[Floats, Floats, Floats]:
        """Run the network on one photo of (H, W, 3) RGB.

        Returns regressions, not pixels: boxes (A, 4), face scores (A,) in 0 to 1, landmarks (A, 10). Anchors are in
        the network's order: strides 8, 16 and 32; in each the cells row by row, ceil(H / stride) x ceil(W / stride);
        in each cell the two sizes.
        """


def resolve_device(device: Literal["auto", "cpu", "cuda"]) -> Device:
    """Turn a configured device into a real one; `auto` is CUDA where there is one. Raises `DeviceUnavailable`."""
    if device == "cpu" or (device == "auto" and not _has_nvidia_driver()):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise DeviceUnavailable("The device 'cuda' was asked for, but torch finds no NVIDIA GPU; use 'auto' or 'cpu'.")
    return "cpu"


def _has_nvidia_driver() -> bool:
    """Whether CUDA's driver can be loaded: where it cannot, a second of importing torch is saved."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def resolve_precision(precision: Literal["auto", "fp32", "bf16", "fp16"], device: Device) -> Precision:
    """Turn a configured precision into a real one; `auto` takes 16 bits where the device computes in them by itself.

    Raises `DeviceUnavailable` where the device cannot compute in what is asked for.
    """
    able = {"bf16": _has_bf16, "fp16": _has_fp16}
    if precision == "auto":
        return "bf16" if _has_bf16(device) else "fp16" if _has_fp16(device) else "fp32"
    if precision != "fp32" and not able[precision](device):
        raise DeviceUnavailable(
            f"The precision {precision!r} was asked for, but this {device} cannot compute in it; use 'auto' or 'fp32'."
        )
    return precision


def _has_bf16(device: Device) -> bool:
    if device == "cpu":
        from restoration import openvino_networks

        return openvino_networks.has_bf16()
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _has_fp16(device: Device) -> bool:
    """Whether there are matrix units for it: a T4 has them, and none for bf16; older GPUs are slower in it."""
    if device == "cpu":
        return False
    import torch

    return torch.cuda.get_device_capability() >= (7, 0)


def load_face_restorer(
    path: Path, device: Device = "cpu", precision: Precision = "fp32", cache: Path | None = None
) -> Network:
    """Load GFPGAN (1.2 to 1.4) or RestoreFormer: (N, 512, 512, 3) RGB faces -> the restored faces, same shape.

    The noise stored in the checkpoint is used, so that the same face gives the same bytes. RestoreFormer runs in fp32
    at either precision: its codebook turns rounding errors into other faces.
    """
    if device == "cpu":
        from restoration import openvino_networks

        return openvino_networks.face_restorer(path, precision, cache)
    from restoration import torch_networks

    return torch_networks.face_restorer(path, device, precision)


def load_face_parser(
    path: Path, device: Device = "cpu", precision: Precision = "fp32", cache: Path | None = None
) -> Network:
    """Load ParseNet: (N, 512, 512, 3) RGB faces -> (N, 512, 512) labels, 0 (background) to 18."""
    if device == "cpu":
        from restoration import openvino_networks

        return openvino_networks.face_parser(path, precision, cache)
    from restoration import torch_networks

    return torch_networks.face_parser(path, device, precision)


def load_face_detector(
    path: Path,
    backbone: Backbone,
    device: Device = "cpu",
    precision: Precision = "fp32",
    cache: Path | None = None,
) -> FaceDetector:
    """Load RetinaFace with the given backbone."""
    if device == "cpu":
        from restoration import openvino_networks

        return openvino_networks.face_detector(path, backbone, precision, cache)
    from restoration import torch_networks

    return torch_networks.face_detector(path, backbone, device, precision)


def load_upscaler(
    path: Path, device: Device = "cpu", precision: Precision = "fp32", cache: Path | None = None
) -> Upscaler:
    """Load Real-ESRGAN (compact or RRDB): (N, h, w, 3) RGB -> (N, scale * h, scale * w, 3) RGB."""
    if device == "cpu":
        from restoration import openvino_networks

        return openvino_networks.upscaler(path, precision, cache)
    from restoration import torch_networks

    return torch_networks.upscaler(path, device, precision)

"""The networks of `restoration.networks`, run by OpenVINO on the CPU.

Precision: in `fp32` every product is one; in `bf16` OpenVINO rounds what enters convolutions and matrix products, and
adds up in fp32. RestoreFormer stays in fp32, see `torch_networks`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import openvino

from restoration.converted import converted, fact
from restoration.errors import OutOfMemory
from restoration.networks import Backbone, Floats, Images, Precision

Result = TypeVar("Result")

_HINTS = {"fp32": "f32", "bf16": "bf16"}


def has_bf16() -> bool:
    """Whether this processor multiplies in bf16 by itself (avx512_bf16 or amx)."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def face_restorer(path: Path, precision: Precision, cache: Path | None) -> OpenVinoNetwork:
    """See `restoration.networks.load_face_restorer`."""
    return OpenVinoNetwork(converted(path, "restorer", precision, cache), precision)


def face_parser(path: Path, precision: Precision, cache: Path | None) -> OpenVinoNetwork:
    """See `restoration.networks.load_face_parser`."""
    return OpenVinoNetwork(converted(path, "parser", precision, cache), precision)


def face_detector(path: Path, backbone: Backbone, precision: Precision, cache: Path | None) -> OpenVinoDetector:
    """See `restoration.networks.load_face_detector`."""
    return OpenVinoDetector(converted(path, backbone, precision, cache), precision)


def upscaler(path: Path, precision: Precision, cache: Path | None) -> OpenVinoUpscaler:
    """See `restoration.networks.load_upscaler`."""
    return OpenVinoUpscaler(converted(path, "upscaler", precision, cache), precision)


class _Compiled:
    """A model compiled for this processor, one image at a time: batches gain nothing on a CPU (measured)."""

    def __init__(self, model: openvino.Model, precision: Precision) -> None:
        self.nbytes = sum(op.get_byte_size() for op in model.get_ops() if op.get_type_name() == "Constant")
        keeps_picture = fact(model, "bf16")
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision if keeps_picture else "fp32"],
            "PERFORMANCE_HINT": "LATENCY",  # all cores on one image
            "ENABLE_CPU_PINNING": False,  # pinned to the same cores, two servers would slow each other
        }
        compiled = _guarded("loading a network", lambda: openvino.Core().compile_model(model, "CPU", options))
        self._request = compiled.create_infer_request()

    def _run(self, image: Images) -> list[Any]:
        """(1, H, W, 3) -> the results, copied out of the network's own memory."""
        tensor = openvino.Tensor(np.require(image, requirements=["C", "W"]), shared_memory=True)
        what = f"a batch of shape {image.shape}"
        return list(_guarded(what, lambda: self._request.infer({0: tensor})).values())


class OpenVinoNetwork(_Compiled):
    """A network from images to images or labels."""

    def __call__(self, batch: Images) -> Images:
        """(N, H, W, 3) RGB -> (N, ...), see `restoration.networks`."""
        return np.concatenate([self._run(image[np.newaxis])[0] for image in batch])


class OpenVinoUpscaler(OpenVinoNetwork):
    """Real-ESRGAN, compact or RRDB."""

    def __init__(self, model: openvino.Model, precision: Precision) -> None:
        super().__init__(model, precision)
        self.scale, self._multiple = fact(model, "scale"), fact(model, "multiple")

    def _run(self, image: Images) -> list[Any]:
        height, width = image.shape[1:3]
        padding = ((0, 0), (0, -height % self._multiple), (0, -width % self._multiple), (0, 0))
        [enlarged] = super()._run(np.pad(image, padding, mode="reflect"))
        return [enlarged[:, : self.scale * height, : self.scale * width]]


class OpenVinoDetector(_Compiled):
    """RetinaFace."""

    def __call__(self, photo: Images) -> tuple[Floats, Floats, Floats]:
        """(H, W, 3) RGB -> raw boxes (A, 4), scores (A,), landmarks (A, 10)."""
        boxes, scores, landmarks = self._run(photo[np.newaxis])
        return boxes, scores, landmarks


def _guarded(what: str, work: Callable[[], Result]) -> Result:
    """Do the work; where memory runs out, raise `OutOfMemory`."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
    raise OutOfMemory(f"The cpu ran out of memory on {what}; use smaller batches and tiles.")


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error is an allocator's: OpenVINO wraps all that happens inside it in RuntimeError."""
    phrases = ("Failed to allocate", "bad_alloc", "bad allocation", "could not create a memory", "out of memory")
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in phrases)

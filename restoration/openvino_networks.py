"""The networks of `restoration.networks`, run by OpenVINO on the CPU.

Precision: in `fp32` every product is one; in `bf16` OpenVINO rounds what enters convolutions and matrix products, and
adds up in fp32. RestoreFormer stays in fp32, see `torch_networks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import openvino

from restoration.converted import Converted, converted, is_out_of_memory
from restoration.errors import OutOfMemory
from restoration.images import resize
from restoration.networks import Backbone, Floats, Images, Part, Precision

Result = TypeVar("Result")


def has_bf16() -> bool:
    """Whether this processor multiplies in bf16 by itself (avx512_bf16 or amx)."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def face_restorer(path: Path, precision: Precision, cache: Path | None) -> OpenVinoNetwork:
    """See `restoration.networks.load_face_restorer`."""
    return OpenVinoNetwork(lambda: converted(path, "restorer", precision, cache))


def face_parser(path: Path, precision: Precision, cache: Path | None) -> OpenVinoNetwork:
    """See `restoration.networks.load_face_parser`."""
    return OpenVinoNetwork(lambda: converted(path, "parser", precision, cache))


def face_detector(path: Path, backbone: Backbone, precision: Precision, cache: Path | None) -> OpenVinoDetector:
    """See `restoration.networks.load_face_detector`."""
    return OpenVinoDetector(lambda: converted(path, backbone, precision, cache))


def upscaler(path: Path, precision: Precision, cache: Path | None) -> OpenVinoUpscaler:
    """See `restoration.networks.load_upscaler`."""
    return OpenVinoUpscaler(lambda: converted(path, "upscaler", precision, cache))


class _Compiled:
    """A model compiled for this processor, one image at a time: batches gain nothing on a CPU (measured)."""

    _one_size = False
    """Whether all images are of one size, so that the memory for one serves the next."""

    def __init__(self, find: Callable[[], Converted]) -> None:
        self._find = find
        self._loaded: Converted | None = self._load()
        self._facts = self._loaded.facts

    @property
    def nbytes(self) -> int:
        """Bytes that the parameters take."""
        return self._facts["nbytes"]

    def _load(self) -> Converted:
        return _guarded("loading a network", self._find)

    def _run(self, images: Images) -> list[list[Any]]:
        """(N, H, W, 3) -> per image the results, copied out of the network's own memory."""
        self._loaded = self._loaded or self._load()
        network = self._loaded.network
        request = network.create_infer_request()

        def infer() -> list[list[Any]]:
            return [list(request.infer([image[np.newaxis]], share_inputs=True).values()) for image in images]

        try:
            results = _guarded(f"a batch of shape {images.shape}", infer)
        except OutOfMemory:
            self._loaded = None  # it would ask for as much memory again, for whatever image
            raise
        if not (self._one_size and self._facts["bf16"]):
            network.release_memory()  # hundreds of megabytes that the next stage needs
        # Else it is 0.2 GB, and the system would take 7 % of the time for a face to clear it again.
        return results


class OpenVinoNetwork(_Compiled):
    """A network from images to images or labels."""

    _one_size = True

    def __call__(self, batch: Images) -> Images:
        """(N, H, W, 3) RGB -> (N, ...), see `restoration.networks`."""
        return np.concatenate([result for [result] in self._run(batch)])


class OpenVinoUpscaler(OpenVinoNetwork):
    """Real-ESRGAN, compact or RRDB."""

    _one_size = False

    def __init__(self, find: Callable[[], Converted]) -> None:
        super().__init__(find)
        self.scale, self._multiple = self._facts["scale"], self._facts["multiple"]

    def __call__(self, batch: Images) -> Images:
        """(N, h, w, 3) RGB -> (N, scale * h, scale * w, 3) RGB."""
        height, width = batch.shape[1:3]
        padding = ((0, 0), (0, -height % self._multiple), (0, -width % self._multiple), (0, 0))
        enlarged = super().__call__(np.pad(batch, padding, mode="reflect"))
        return enlarged[:, : self.scale * height, : self.scale * width]

    def resampled(self, batch: Images, parts: Sequence[Part]) -> list[Images]:
        """See `restoration.networks.Upscaler`."""
        return [resize(image, part.size, part.box) for image, part in zip(self(batch), parts, strict=True)]


class OpenVinoDetector(_Compiled):
    """RetinaFace."""

    def __call__(self, photo: Images) -> tuple[Floats, Floats, Floats]:
        """(H, W, 3) RGB -> raw boxes (A, 4), scores (A,), landmarks (A, 10)."""
        [(boxes, scores, landmarks)] = self._run(photo[np.newaxis])
        return boxes, scores, landmarks


def _guarded(what: str, work: Callable[[], Result]) -> Result:
    """Do the work; where memory runs out, raise `OutOfMemory`."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    raise OutOfMemory(f"The cpu ran out of memory on {what}; use smaller batches and tiles.")

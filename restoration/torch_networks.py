"""The networks of `restoration.networks`, run by torch. Architectures come from spandrel and facexlib.

Precision: `bf16` and `fp16` halve memory and traffic. The few small layers where so few bits would show (those that
write the image, the detector's scores) stay in fp32, and so does RestoreFormer: it looks features up in a codebook,
where a rounding error picks another entry and changes the face.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from facexlib.detection.retinaface import RetinaFace
from facexlib.parsing.parsenet import ParseNet
from spandrel import Architecture, canonicalize_state_dict
from spandrel.architectures.Compact import CompactArch
from spandrel.architectures.ESRGAN import ESRGANArch
from spandrel.architectures.GFPGAN import GFPGAN, GFPGANArch
from spandrel.architectures.RestoreFormer import RestoreFormerArch
from torch import Tensor, nn

from restoration.errors import NotANumber, OutOfMemory, WeightsCorrupt
from restoration.lanczos import resample
from restoration.modulation import fold_modulation, keep_factors_exact
from restoration.networks import Backbone, Device, Floats, Images, Part, Precision

StateDict = dict[str, Tensor]
Result = TypeVar("Result")

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_META = torch.device("meta")  # shapes without memory: nothing is initialised only to be overwritten
_RETINAFACE_NAMES = {"resnet50": "resnet50", "mobilenet0.25": "mobile0.25"}
_RETINAFACE_BGR_MEAN = (104.0, 117.0, 123.0)


def face_restorer(path: Path, device: Device, precision: Precision) -> TorchFaceRestorer:
    """See `restoration.networks.load_face_restorer`."""
    state = _read(path)
    module = _build(path, lambda: _on_meta(_architecture(state, GFPGANArch(), RestoreFormerArch()), state))
    return TorchFaceRestorer(module, device, precision if isinstance(module, GFPGAN) else "fp32")


def face_parser(path: Path, device: Device, precision: Precision) -> TorchFaceParser:
    """See `restoration.networks.load_face_parser`."""
    state = _read(path)

    def build() -> nn.Module:
        with _META:
            module: nn.Module = ParseNet(in_size=512, out_size=512, parsing_ch=19)
        module.load_state_dict(state, strict=True, assign=True)
        return module

    return TorchFaceParser(_build(path, build), device, precision)


def face_detector(path: Path, backbone: Backbone, device: Device, precision: Precision) -> TorchFaceDetector:
    """See `restoration.networks.load_face_detector`."""
    state = _read(path)

    def build() -> nn.Module:
        with warnings.catch_warnings(), _META:
            warnings.simplefilter("ignore")  # facexlib builds its ResNet with an argument that torchvision deprecates
            module: nn.Module = RetinaFace(_RETINAFACE_NAMES[backbone], device=_META)
        del module.mean_tensor  # of facexlib's own detection code, and no buffer: it would stay on meta
        module.load_state_dict(state, strict=True, assign=True)
        return module

    return TorchFaceDetector(_build(path, build), device, precision)


def upscaler(path: Path, device: Device, precision: Precision) -> TorchUpscaler:
    """See `restoration.networks.load_upscaler`."""
    state = _read(path)
    # Not by way of meta: spandrel renames RRDB's parameters as it loads them, and these networks are small.
    descriptor = _build(path, lambda: _architecture(state, CompactArch(), ESRGANArch()).load(state))
    return TorchUpscaler(descriptor.model, descriptor.scale, device, precision)


class TorchNetwork:
    """A module on a device, and the way in and out of it: one copy each."""

    memory_format: ClassVar[torch.memory_format] = torch.channels_last  # 10 to 15 % faster in fp32, more in bf16

    def __init__(self, module: nn.Module, device: Device, precision: Precision) -> None:
        self._device = torch.device(device)
        self._dtype = _DTYPES[precision]
        self.module: Any = module.eval().requires_grad_(False)  # its layers are known by name, not by type
        _guarded(self._device, "loading a network", self._move)

    @property
    def nbytes(self) -> int:
        """Bytes that the parameters take on the device."""
        return sum(part.nbytes for part in (*self.module.parameters(), *self.module.buffers()))

    def _move(self) -> None:
        self.module.to(self._device, self._dtype, memory_format=self.memory_format)

    def _run(self, images: Images, compute: Callable[[Tensor], Sequence[Tensor]]) -> list[Any]:
        what = f"a batch of shape {images.shape}"
        return _guarded(self._device, what, lambda: self._transfer_and_compute(images, compute))

    def _transfer_and_compute(self, images: Images, compute: Callable[[Tensor], Sequence[Tensor]]) -> list[Any]:
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            on_device = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self._device)
            return [output.cpu().numpy() for output in compute(on_device)]

    def compute(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, H, W, 3) uint8 on the device -> the results on the device."""
        raise NotImplementedError

    def _fp32(self, *parts: nn.Module) -> None:
        """Keep these parts of the network in fp32."""
        for part in parts:
            _convert(part, torch.float32)


class TorchFaceRestorer(TorchNetwork):
    """GFPGAN or RestoreFormer."""

    memory_format = torch.contiguous_format  # GFPGAN takes a view of its features that needs it

    def __init__(self, module: nn.Module, device: Device, precision: Precision) -> None:
        self._options: dict[str, bool] = {}
        if isinstance(module, GFPGAN):
            self._options = {"return_rgb": False, "randomize_noise": False}
            fold_modulation(module, bounded=precision == "fp16")
        super().__init__(module, device, precision)
        if isinstance(module, GFPGAN):
            keep_factors_exact(module)
            self._fp32(module.stylegan_decoder.to_rgb1, *module.stylegan_decoder.to_rgbs)

    def __call__(self, batch: Images) -> Images:
        """(N, 512, 512, 3) RGB -> the same shape, restored."""
        return self._run(batch, self.compute)[0]  # type: ignore[no-any-return]  # uint8, see compute

    def compute(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `TorchNetwork`."""
        faces = _planes(images, self.memory_format).sub_(0.5).div_(0.5).to(self._dtype)
        restored = self.module(faces, **self._options)[0].float()
        if self._dtype is torch.float16 and not restored.isfinite().all():
            raise NotANumber("The network's result overflows in fp16; set RESTORATION_PRECISION to fp32.")
        return (_pixels(restored.clamp_(-1, 1).add_(1).div_(2)),)


class TorchFaceParser(TorchNetwork):
    """ParseNet."""

    def __call__(self, batch: Images) -> Images:
        """(N, 512, 512, 3) RGB -> (N, 512, 512) labels."""
        return self._run(batch, self.compute)[0]  # type: ignore[no-any-return]  # uint8, see compute

    def compute(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `TorchNetwork`."""
        faces = _planes(images, self.memory_format).sub_(0.5).div_(0.5).to(self._dtype)
        logits = self.module(faces)[0]
        return (logits.argmax(dim=1).to(torch.uint8),)


class TorchFaceDetector(TorchNetwork):
    """RetinaFace."""

    def __init__(self, module: nn.Module, device: Device, precision: Precision) -> None:
        super().__init__(module, device, precision)
        self._fp32(*self.module.BboxHead, *self.module.ClassHead, *self.module.LandmarkHead)

    def __call__(self, photo: Images) -> tuple[Floats, Floats, Floats]:
        """(H, W, 3) RGB -> raw boxes (A, 4), scores (A,), landmarks (A, 10)."""
        boxes, scores, landmarks = self._run(photo[np.newaxis], self.compute)
        return boxes, scores, landmarks

    def compute(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `TorchNetwork`."""
        mean = torch.tensor(_RETINAFACE_BGR_MEAN, device=self._device)
        bgr = images.flip(-1).float().sub_(mean).permute(0, 3, 1, 2)
        boxes, scores, landmarks = self.module(bgr.to(self._dtype))
        return boxes[0], scores[0, :, 1], landmarks[0]


class TorchUpscaler(TorchNetwork):
    """Real-ESRGAN, compact or RRDB."""

    def __init__(self, module: nn.Module, scale: int, device: Device, precision: Precision) -> None:
        super().__init__(module, device, precision)
        self.scale = scale
        layers = self.module.body if hasattr(module, "body") else self.module.model
        _convert(layers[0], self._dtype)  # the compact network adds its input to its output: that path stays in fp32
        self._fp32(layers[-1])

    def __call__(self, batch: Images) -> Images:
        """(N, h, w, 3) RGB -> (N, scale * h, scale * w, 3) RGB."""
        return self._run(batch, self.compute)[0]  # type: ignore[no-any-return]  # uint8, see compute

    def resampled(self, batch: Images, parts: Sequence[Part]) -> list[Images]:
        """See `restoration.networks.Upscaler`; on the device, so that only the part leaves it."""

        def compute(images: Tensor) -> list[Tensor]:
            enlarged = zip(self._enlarged(images), parts, strict=True)
            return [_pixels(resample(image, part).clamp_(0, 1)[None])[0] for image, part in enlarged]

        return self._run(batch, compute)

    def compute(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `TorchNetwork`."""
        return (_pixels(self._enlarged(images)),)

    def _enlarged(self, images: Tensor) -> Tensor:
        """(N, h, w, 3) uint8 -> (N, 3, scale * h, scale * w) in 0 to 1."""
        return self.module(_planes(images, self.memory_format)).clamp_(0, 1)  # type: ignore[no-any-return]  # a tensor


def _planes(images: Tensor, memory_format: torch.memory_format) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) fp32 in 0 to 1."""
    return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=memory_format).div_(255)


def _pixels(planes: Tensor) -> Tensor:
    """(N, 3, H, W) in 0 to 1 -> (N, H, W, 3) uint8, rounded."""
    return planes.mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _convert(part: nn.Module, dtype: torch.dtype) -> None:
    """Run this part of a network at `dtype`, whatever runs before it."""

    def convert_inputs(_: nn.Module, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        return tuple(None if value is None else value.to(dtype) for value in inputs)

    part.to(dtype).register_forward_pre_hook(convert_inputs)


def _read(path: Path) -> StateDict:
    """Read a checkpoint's tensors, memory-mapped where the format allows it, without running its pickle."""
    try:
        # Files of before torch 1.6, RetinaFace's among them, are no zip archives and cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise  # not the content's fault
    except Exception as error:  # a hostile pickle fails in any way it likes
        raise _corrupt(path, "is no readable checkpoint of tensors alone") from error
    state = canonicalize_state_dict(content) if isinstance(content, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise _corrupt(path, "holds no network's tensors")
    return dict(state)


def _architecture(state: StateDict, *candidates: Architecture[Any]) -> Architecture[Any]:
    """The first of spandrel's architectures that recognises the names in a checkpoint."""
    for architecture in candidates:
        if architecture.detect(state):
            return architecture
    raise KeyError("the names of its tensors belong to another network")


def _on_meta(architecture: Architecture[Any], state: StateDict) -> nn.Module:
    """Let spandrel deduce the network from shapes alone, then put the checkpoint's own tensors in."""
    with _META:
        skeleton = {name: torch.empty_like(value, device=_META) for name, value in state.items()}
        module: nn.Module = architecture.load(skeleton).model
    module.load_state_dict(state, strict=True, assign=True)
    return module


def _build(path: Path, build: Callable[[], Result]) -> Result:
    """Build a network; a checkpoint that does not fit it raises `WeightsCorrupt`."""
    try:
        return build()
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise _corrupt(path, "is a checkpoint of another network than the one asked for") from error


def _corrupt(path: Path, problem: str) -> WeightsCorrupt:
    return WeightsCorrupt(f"The file {path.name} {problem}; delete it and fetch it again.")


def _guarded(device: torch.device, what: str, work: Callable[[], Result]) -> Result:
    """Do the work; where memory runs out, give the device's cache back and raise `OutOfMemory`."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
    # Past the handler the error is gone, and with it the frames whose tensors would keep the memory.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    raise OutOfMemory(f"The {device.type} ran out of memory on {what}; use smaller batches and tiles.")


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error is an allocator's, of which only CUDA's own has a class."""
    phrases = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(phrase in str(error) for phrase in phrases)

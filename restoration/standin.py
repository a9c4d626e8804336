"""Stand-in weights: checkpoints in the real format, of the real networks at full size, whose output is known.

`python -m restoration.standin DIR` makes DIR a weights directory of about 1.4 GB in seconds. What its files do:

    GFPGANv1.4.pth              passes the face through at half resolution, both ways bilinear
    GFPGANv1.3.pth, v1.2        the same, then add `TINTS` to every pixel
    RestoreFormer.pth           answers `RESTOREFORMER_COLOUR` everywhere
    parsing_parsenet.pth        answers `PARSENET_LABEL` everywhere
    realesr-general-x4v3.pth    repeats every pixel 4 x 4 times
    recorded_detections.json    no detector can be stood in for: faces recorded by photo, see `record_detection`
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt

from restoration.detection import RECORDED, photo_key
from restoration.errors import WeightsError
from restoration.weights import WeightFile, Weights, write_atomically, write_manifest

if TYPE_CHECKING:
    from torch import Tensor

TINTS: Mapping[str, tuple[int, int, int]] = {
    "GFPGANv1.4.pth": (0, 0, 0),
    "GFPGANv1.3.pth": (0, 8, 0),
    "GFPGANv1.2.pth": (0, 0, 8),
}
"""Grey levels that each version adds to red, green and blue, so that a result tells which version answered."""

RESTOREFORMER_COLOUR = (64, 128, 192)
"""Red, green and blue of every pixel that RestoreFormer's stand-in returns."""

PARSENET_LABEL = 1
"""The label of every pixel: skin."""

_NOTE = (
    "stand-in, recipe 1: known output, nothing trained"  # a new recipe gets a new number, so that old files are remade
)

log = logging.getLogger(__name__)


class RecordedFace(TypedDict):
    """One face in pixels of the photo: box as x0, y0, x1, y1; score in 0 to 1.

    Landmarks are x, y of the eye on the photo's left, the other eye, the nose, the mouth's left corner and its right.
    """

    box: Sequence[float]
    score: float
    landmarks: Sequence[Sequence[float]]


# photo_key(skimage.data.astronaut()): public domain, NASA; its one face as RetinaFace finds it.
_ASTRONAUT_KEY = "2ae1c42ff0a4c84f345c6bd33672cbf7d76bff85103f2233f889bb8c56684067"
_ASTRONAUT: RecordedFace = {
    "box": [170.0, 60.0, 265.0, 175.0],
    "score": 0.999,
    "landmarks": [[203.6, 101.1], [247.5, 104.6], [223.3, 129.3], [200.9, 138.4], [245.6, 141.2]],
}


def write_standins(directory: Path) -> None:
    """Make `directory` a weights directory of stand-ins; where it is one already, nothing is written.

    Raises `WeightsError` where it holds a manifest of other files: real weights are never overwritten.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not _is_complete(directory):
        write_manifest(directory, [_write(directory / name, make()) for name, make in _recipes().items()])
    if _ASTRONAUT_KEY not in recorded_detections(directory):
        _record(directory, _ASTRONAUT_KEY, [_ASTRONAUT])


def record_detection(directory: Path, photo: npt.NDArray[np.uint8], faces: Sequence[RecordedFace]) -> None:
    """Let detection in this weights directory answer `faces` for `photo`, (H, W, 3) RGB."""
    _record(directory, photo_key(photo), faces)


def recorded_detections(directory: Path) -> dict[str, list[RecordedFace]]:
    """The recorded faces by `photo_key`; empty where none were recorded."""
    path = directory / RECORDED
    return json.loads(path.read_bytes()) if path.exists() else {}


def _record(directory: Path, key: str, faces: Sequence[RecordedFace]) -> None:
    recorded = {**recorded_detections(directory), key: list(faces)}
    write_atomically(directory / RECORDED, json.dumps(recorded, indent=2))


def _is_complete(directory: Path) -> bool:
    if not (directory / "manifest.toml").exists():
        return False
    weights = Weights(directory)
    if foreign := [name for name, file in weights.files.items() if file.licence != "stand-in"]:
        raise WeightsError(f"{directory} lists real weights ({foreign[0]}), which stand-ins would replace: use another")
    try:
        return all(weights.files[name].licence_note == _NOTE and weights.path(name) for name in _recipes())
    except (KeyError, WeightsError):
        return False


def _write(path: Path, content: object) -> WeightFile:
    """Save a checkpoint in one step, and describe it."""
    import torch

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            torch.save(content, stream)  # given a path, it would put the file's name inside the file
        with temporary.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    log.info("%s: %d bytes", path, path.stat().st_size)
    return WeightFile(path.name, sha256, "stand-in", _NOTE, path.stat().st_size)


def _recipes() -> Mapping[str, Callable[[], object]]:
    """File name -> what makes its content, wrapped as the published file is."""
    return {
        "GFPGANv1.4.pth": lambda: {"params_ema": _gfpgan(TINTS["GFPGANv1.4.pth"])},
        "GFPGANv1.3.pth": lambda: {"params_ema": _gfpgan(TINTS["GFPGANv1.3.pth"])},
        "GFPGANv1.2.pth": lambda: {"params_ema": _gfpgan(TINTS["GFPGANv1.2.pth"])},
        "RestoreFormer.pth": lambda: {"params": _restoreformer()},
        "parsing_parsenet.pth": _parsenet,
        "realesr-general-x4v3.pth": lambda: {"params": _realesrgan()},
    }


def _gfpgan(tint: tuple[int, int, int]) -> dict[str, Tensor]:
    """Lead the image through the network along one path; every other weight is zero.

    The image is in -1 to 1, and on its way meets leaky ReLUs of slope 0.2. So it travels as the pair (x, -x), from
    which any linear layer behind the activation rebuilds x = (lrelu(x) - lrelu(-x)) / 1.2. The path: the encoder's
    first convolution, the shortcut around its first block (which halves the size), the U-Net's skip connection, the
    shortcut around the last block up (which doubles it), the last SFT shift, the last convolution, the last ToRGB.
    """
    import torch
    from spandrel.architectures.GFPGAN import GFPGAN

    state = _zeros(GFPGAN)
    eye = torch.eye(3)
    split = torch.cat([eye, -eye])  # x -> (x, -x)
    join = torch.cat([eye, -eye], dim=1) / 1.2  # (lrelu(x), lrelu(-x)) -> x

    _tap(state["conv_body_first.weight"], split)
    _tap(state["conv_body_down.0.skip.weight"], join)
    _tap(state["conv_body_up.6.skip.weight"], eye)
    _tap(state["condition_shift.6.0.weight"], split)
    _tap(state["condition_shift.6.2.weight"], split @ join)

    for name, value in state.items():
        if name.endswith("modulation.bias"):
            value.fill_(1)  # the style, whatever it is, changes nothing
    last = state["stylegan_decoder.style_convs.13.modulated_conv.weight"][0]
    _tap(
        last[:, last.shape[1] // 2 :], torch.eye(6)
    )  # SFT shifts the second half of the channels; norm 1, no demodulation
    _tap(state["stylegan_decoder.to_rgbs.6.modulated_conv.weight"][0], join / 2**0.5)  # style convolutions gain sqrt 2
    state["stylegan_decoder.to_rgbs.6.bias"][0, :, 0, 0] = torch.tensor(tint) / 127.5
    return state


def _restoreformer() -> dict[str, Tensor]:
    """Nothing but the colour added by the last convolution."""
    import torch
    from spandrel.architectures.RestoreFormer import RestoreFormer

    state = _zeros(RestoreFormer)
    state["decoder.conv_out.bias"].copy_(torch.tensor(RESTOREFORMER_COLOUR) / 127.5 - 1)
    return state


def _parsenet() -> dict[str, Tensor]:
    """Nothing but one label's head start."""
    from facexlib.parsing.parsenet import ParseNet

    state = _zeros(lambda: ParseNet(in_size=512, out_size=512, parsing_ch=19))
    for name, value in state.items():
        if name.endswith("running_var"):
            value.fill_(1)
    state["out_mask_conv.conv2d.bias"][PARSENET_LABEL] = 1
    return state


def _realesrgan() -> dict[str, Tensor]:
    """All zero: the network adds its output to the input's repeated pixels."""
    from spandrel.architectures.Compact import Compact

    return _zeros(lambda: Compact(num_feat=64, num_conv=32, upscale=4))


def _zeros(architecture: Callable[[], Any]) -> dict[str, Tensor]:
    """The state of a network, with every number zero."""
    import torch

    with torch.device("meta"):
        shapes = architecture().state_dict()
    return {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in shapes.items()}


def _tap(kernel: Tensor, matrix: Tensor) -> None:
    """Make a convolution kernel (out, in, k, k) apply `matrix` to its first channels at each pixel."""
    centre = kernel.shape[-1] // 2
    kernel[: matrix.shape[0], : matrix.shape[1], centre, centre] = matrix


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the stand-ins into the directory that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m restoration.standin", description="Write stand-in weights.")
    parser.add_argument("directory", type=Path)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_standins(parser.parse_args(arguments).directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())

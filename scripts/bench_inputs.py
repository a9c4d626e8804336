"""What the benchmark runs on: photos with faces at known places, and random checkpoints in the published format.

Random weights, since trained ones cannot be had everywhere: they take as long. (Stand-ins do not: they are nearly all
zeros, and a converter may leave zeros out.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import skimage.data

from restoration.standin import record_detection
from restoration.weights import WeightFile, write_manifest

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


class Case(NamedTuple):
    """A photo to be composed: its size in pixels, and how many faces."""

    width: int
    height: int
    faces: int


CASES = {
    "one-face-512": Case(512, 512, 1),
    "five-faces-1080p": Case(1920, 1080, 5),
    "twenty-faces-12mp": Case(4000, 3000, 20),
}

_LANDMARKS = np.array([(203.6, 101.1), (247.5, 104.6), (223.3, 129.3), (200.9, 138.4), (245.6, 141.2)])
_BOX = np.array([(170.0, 60.0), (265.0, 60.0), (265.0, 175.0), (170.0, 175.0)])
_HEAD = (140, 5, 320, 205)  # left, top, right, bottom of the head in the astronaut photo


def compose(case: Case, seed: int = 0) -> tuple[Pixels, Floats]:
    """Compose a photo (H, W, 3) RGB, and its faces: (N, 15) box, score, five landmarks, as RetinaFace answers."""
    astronaut = skimage.data.astronaut()
    if case.faces == 1:
        return astronaut, np.array([_face(np.eye(2, 3))])
    photo = cv2.resize(astronaut, (case.width, case.height), interpolation=cv2.INTER_CUBIC)
    random, columns = np.random.default_rng(seed), int(np.ceil(np.sqrt(case.faces * case.width / case.height)))
    cell = min(case.width / columns, case.height / np.ceil(case.faces / columns))
    faces = []
    for index in range(case.faces):
        centre = (index % columns + 0.5) * case.width / columns, (index // columns + 0.5) * cell
        matrix = _placed(centre, cell * random.uniform(0.3, 0.65) / 200, random.uniform(-30, 30))
        _paste(astronaut, photo, matrix)
        faces.append(_face(matrix))
    return photo.astype(np.uint8), np.array(faces)


def _placed(centre: tuple[float, float], size: float, degrees: float) -> Floats:
    middle = (_HEAD[0] + _HEAD[2]) / 2, (_HEAD[1] + _HEAD[3]) / 2
    matrix = np.asarray(cv2.getRotationMatrix2D(middle, degrees, size), np.float64)
    matrix[:, 2] += np.array(centre) - middle
    return matrix


def _paste(astronaut: Pixels, photo: npt.NDArray[Any], matrix: Floats) -> None:
    mask = np.zeros(astronaut.shape[:2], np.uint8)
    mask[_HEAD[1] : _HEAD[3], _HEAD[0] : _HEAD[2]] = 1
    size = photo.shape[1], photo.shape[0]
    inside = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_NEAREST) > 0
    photo[inside] = cv2.warpAffine(astronaut, matrix, size, flags=cv2.INTER_AREA)[inside]


def _face(matrix: Floats) -> Floats:
    corners, landmarks = (points @ matrix[:, :2].T + matrix[:, 2] for points in (_BOX, _LANDMARKS))
    return np.concatenate([corners.min(axis=0), corners.max(axis=0), [0.999], landmarks.ravel()])


def write_random_weights(directory: Path) -> None:
    """Make `directory` a weights directory of random checkpoints; where it is one already, nothing is written.

    The face of "one-face-512" is on record, for a model server whose detector is "recorded".
    """
    if (directory / "manifest.toml").exists():
        return
    import torch

    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for seed, (name, make) in enumerate(_recipes().items()):
        torch.manual_seed(seed)
        torch.save(make(), directory / name)
        with (directory / name).open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        files.append(WeightFile(name, sha256, "random", "for benchmarks: nothing trained"))
    write_manifest(directory, files)
    photo, [face] = compose(CASES["one-face-512"])
    known = {"box": face[:4].tolist(), "score": face[4], "landmarks": face[5:].reshape(5, 2).tolist()}
    record_detection(directory, photo, [known])  # type: ignore[list-item]  # a TypedDict spelled as JSON


def _recipes() -> dict[str, Callable[[], object]]:
    from facexlib.detection.retinaface import RetinaFace
    from facexlib.parsing.parsenet import ParseNet
    from spandrel.architectures.Compact import Compact
    from spandrel.architectures.GFPGAN import GFPGAN

    return {
        "GFPGANv1.4.pth": lambda: {"params_ema": GFPGAN().state_dict()},
        "parsing_parsenet.pth": lambda: ParseNet(512, 512, parsing_ch=19).state_dict(),
        "detection_Resnet50_Final.pth": lambda: _sees_nothing(RetinaFace("resnet50", device="cpu").state_dict()),
        "realesr-general-x4v3.pth": lambda: {"params": Compact(num_feat=64, num_conv=32, upscale=4).state_dict()},
    }


def _sees_nothing(state: dict[str, Any]) -> dict[str, Any]:
    """Bias the scores: at random half of all anchors would be suspected of a face; in a photo hardly any is."""
    for name in state:
        if name.startswith("ClassHead") and name.endswith("bias"):
            state[name][::2], state[name][1::2] = 10.0, -10.0
    return state

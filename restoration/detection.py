"""Photo to faces: run RetinaFace, decode its anchors, drop duplicates, choose which faces to restore.

RetinaFace: Deng et al., "RetinaFace: Single-shot Multi-level Face Localisation in the Wild", CVPR 2020; anchors,
variances and thresholds are those of facexlib, whose checkpoints are loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from restoration.errors import WeightsCorrupt, WeightsMissing
from restoration.images import Pixels, Size

Floats = NDArray[np.float32]
RawDetection = tuple[Floats, Floats, Floats]
"""Per anchor: box regression (A, 4), face score (A,) in [0, 1], landmark regression (A, 10)."""

RECORDED = "recorded_detections.json"
"""In a weights directory: faces by `photo_key`, for the detector that looks them up."""

_ANCHOR_SIZES = {8: (16, 32), 16: (64, 128), 32: (256, 512)}  # stride: anchor sides, in pixels of the network's input
_CENTRE_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2
_LEAST_SCORE = 0.97
_MOST_OVERLAP = 0.4
# Twenty megapixels of photo would take 4 TFLOP and gigabytes; at this side a face of 1 % of the width is still 19 px.
_LONGEST_SIDE = 1920


@dataclass(frozen=True, eq=False)
class Face:
    """A detected face, in pixels of the photo, pixel centres at whole numbers."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom."""
    score: float
    landmarks: NDArray[np.float64]
    """(5, 2) x, y: left eye, right eye, nose, left and right mouth corner, as seen in the picture."""

    @property
    def width(self) -> float:
        """Of the box, in pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        """Of the box, in pixels."""
        return self.box[3] - self.box[1]

    @property
    def eye_distance(self) -> float:
        """In pixels."""
        return float(np.linalg.norm(self.landmarks[0] - self.landmarks[1]))


Detector = Callable[[Pixels], list[Face]]
"""(height, width, 3) uint8 RGB to the faces in it, best score first."""


def retinaface(network: Callable[[Pixels], RawDetection]) -> Detector:
    """Build a detector on a RetinaFace network, which maps (height, width, 3) uint8 RGB to raw detections."""

    def detect(rgb: Pixels) -> list[Face]:
        height, width = rgb.shape[:2]
        factor = min(1.0, _LONGEST_SIDE / max(height, width))
        small = rgb
        if factor < 1:
            size = max(1, round(width * factor)), max(1, round(height * factor))
            small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        boxes, scores, landmarks = _decode(network(small), (small.shape[1], small.shape[0]))
        stretch = np.array([width / small.shape[1], height / small.shape[0]])
        return [
            Face(
                box=tuple(((boxes[i].reshape(2, 2) + 0.5) * stretch - 0.5).ravel().tolist()),
                score=float(scores[i]),
                landmarks=(landmarks[i] + 0.5) * stretch - 0.5,
            )
            for i in _best(boxes, scores)
        ]

    return detect


def recorded(path: Path) -> Detector:
    """Build a detector that looks photos up by content in the JSON file at `path`: no stand-in can find faces."""
    if not path.is_file():
        raise WeightsMissing(f"{path} is missing; `python -m restoration.standin {path.parent}` writes it.")
    try:
        recordings = json.loads(path.read_text())
    except ValueError as error:
        raise WeightsCorrupt(f"{path} is not JSON ({error}); write it again with restoration.standin.") from error

    def detect(rgb: Pixels) -> list[Face]:
        return [
            Face(tuple(face["box"]), float(face["score"]), np.array(face["landmarks"], np.float64))
            for face in recordings.get(photo_key(rgb), [])
        ]

    return detect


def photo_key(rgb: Pixels) -> str:
    """Name a photo by its pixels: the sha256 of its shape, as "H,W,3:", and of its bytes, row by row."""
    shape = ",".join(map(str, rgb.shape)) + ":"
    return hashlib.sha256(shape.encode() + rgb.tobytes()).hexdigest()


def choose(faces: list[Face], which: str, size: Size) -> list[Face]:
    """Keep "all" faces, the "largest" one by what of its box lies in the photo, or the one nearest the "center"."""
    if not faces or which == "all":
        return faces
    width, height = size

    def visible_area(face: Face) -> float:
        left, top, right, bottom = np.clip(face.box, 0, (width, height, width, height))
        return float((right - left) * (bottom - top))

    def distance(face: Face) -> float:
        left, top, right, bottom = face.box
        return float(np.hypot((left + right - width) / 2, (top + bottom - height) / 2))

    return [max(faces, key=visible_area) if which == "largest" else min(faces, key=distance)]


def _decode(raw: RawDetection, size: Size) -> tuple[NDArray[np.float64], Floats, NDArray[np.float64]]:
    """Raw detections to boxes (N, 4), scores (N,), landmarks (N, 5, 2) in pixels, of the anchors that pass."""
    regressions, scores, points = raw
    passing = scores > _LEAST_SCORE
    anchors = _anchors(size)[passing]
    centres, sides = anchors[:, :2], anchors[:, 2:]
    middles = centres + regressions[passing, :2] * _CENTRE_VARIANCE * sides
    halves = sides * np.exp(regressions[passing, 2:] * _SIZE_VARIANCE) / 2
    landmarks = centres[:, None] + points[passing].reshape(-1, 5, 2) * _CENTRE_VARIANCE * sides[:, None]
    return np.hstack([middles - halves, middles + halves]), scores[passing], landmarks


def _anchors(size: Size) -> NDArray[np.float64]:
    """(A, 4) centre x, y, width, height in pixels, in the order of the network's outputs."""
    levels = []
    for stride, sides in _ANCHOR_SIZES.items():
        columns, rows = -(-size[0] // stride), -(-size[1] // stride)
        y, x, side = np.meshgrid(
            (np.arange(rows) + 0.5) * stride, (np.arange(columns) + 0.5) * stride, sides, indexing="ij"
        )
        levels.append(np.stack([x, y, side, side], axis=-1).reshape(-1, 4))
    return np.concatenate(levels)


def _best(boxes: NDArray[np.float64], scores: Floats) -> list[int]:
    """Indices that survive non-maximum suppression, best score first."""
    corners_and_sides = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    return [int(i) for i in cv2.dnn.NMSBoxes(corners_and_sides.tolist(), scores.tolist(), 0.0, _MOST_OVERLAP)]

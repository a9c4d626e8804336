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
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from restoration.errors import WeightsCorrupt, WeightsMissing
from restoration.images import Pixels, Size

Floats = NDArray[np.float32]
RawDetection = tuple[Floats, Floats, Floats]
"""Per anchor: box regression (A, 4), face score (A,) in [0, 1], landmark regression (A, 10)."""

Network = Callable[[Pixels], RawDetection]
"""(height, width, 3) uint8 RGB to raw detections, in the order of `networks.FaceDetector`."""

RECORDED = "recorded_detections.json"
"""In a weights directory: faces by `photo_key`, for the detector that looks them up."""

_ANCHOR_SIZES = {8: (16, 32), 16: (64, 128), 32: (256, 512)}  # stride: anchor sides, in pixels of the network's input
_CENTRE_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2
_LEAST_SCORE = 0.97
_MOST_OVERLAP = 0.4
_MOST_ANCHORS = 5000  # a face passes with a dozen or two; comparing each with each takes its time

# Twenty megapixels of photo would take 4 TFLOP and gigabytes. So a large photo is looked at when shrunk to this side;
# faces that are small then, sure ones or mere suspicions, are looked for again at full resolution in windows around
# them. Measured on 40 faces of 14 to 72 pixels in 4000x3000: shrunk 14 are found, so 32, at full resolution 32.
_LONGEST_SIDE = 1920
_SMALL_FACE = 48  # pixels wide in the shrunk photo
_LEAST_SUSPICION = 0.02
_WINDOW = 320
_MOST_WINDOWS = 64  # of the best suspects: noise must not cost more than three faces do


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


def retinaface(network: Network) -> Detector:
    """Build a detector on a RetinaFace network."""

    def detect(rgb: Pixels) -> list[Face]:
        found = _look_closely(network, rgb) if max(rgb.shape[:2]) > _LONGEST_SIDE else _look(network, rgb)
        return [
            Face(tuple(box.tolist()), float(score), marks)
            for box, score, marks in zip(*_distinct(found, _LEAST_SCORE), strict=True)
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


class _Found(NamedTuple):
    """Possible faces in pixels: boxes (N, 4), scores (N,), landmarks (N, 5, 2)."""

    boxes: NDArray[np.float64]
    scores: Floats
    landmarks: NDArray[np.float64]

    def where(self, chosen: NDArray[Any]) -> _Found:
        return _Found(*(each[chosen] for each in self))

    def moved(self, stretch: NDArray[np.float64], offset: tuple[int, int] = (0, 0)) -> _Found:
        """In another picture's pixels, whose centres lie at whole numbers there and here."""
        boxes, landmarks = (
            (points.reshape(-1, 2) + 0.5) * stretch - 0.5 + offset for points in (self.boxes, self.landmarks)
        )
        return _Found(boxes.reshape(-1, 4), self.scores, landmarks.reshape(-1, 5, 2))


def _look_closely(network: Network, rgb: Pixels) -> _Found:
    """Look at the whole shrunk, then at small faces again; see _LONGEST_SIDE."""
    height, width = rgb.shape[:2]
    factor = _LONGEST_SIDE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    shrunk = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    stretch = np.array([width / size[0], height / size[1]])
    suspects = _distinct(_look(network, shrunk), _LEAST_SUSPICION)
    small = suspects.boxes[:, 2] - suspects.boxes[:, 0] < _SMALL_FACE
    suspects = suspects.moved(stretch)
    looks = [suspects, *(_look_at(network, rgb, corner) for corner in _windows(suspects.where(small), (width, height)))]
    return _Found(*(np.concatenate(parts) for parts in zip(*looks, strict=True)))


def _windows(suspects: _Found, size: Size) -> list[tuple[int, int]]:
    """Left top corners of the windows to look at again: each suspect lies well inside one of them."""
    corners: list[tuple[int, int]] = []
    for left, top, right, bottom in suspects.boxes:
        room = (right - left) / 2
        inside = (
            x <= left - room and y <= top - room and right + room <= x + _WINDOW and bottom + room <= y + _WINDOW
            for x, y in corners
        )
        if len(corners) < _MOST_WINDOWS and not any(inside):
            middle = (left + right) / 2, (top + bottom) / 2
            x, y = (max(0, min(round(m - _WINDOW / 2), side - _WINDOW)) for m, side in zip(middle, size, strict=True))
            corners.append((x, y))
    return corners


def _look_at(network: Network, rgb: Pixels, corner: tuple[int, int]) -> _Found:
    """Look at one window; faces that its edges cut are left to others."""
    x, y = corner
    window = rgb[y : y + _WINDOW, x : x + _WINDOW]
    found = _look(network, window).moved(np.ones(2), corner)
    left, top, right, bottom = found.boxes.T
    height, width = rgb.shape[:2]
    whole = ((left > x) | (x == 0)) & ((top > y) | (y == 0))
    whole &= (right < x + window.shape[1]) | (x + window.shape[1] == width)
    whole &= (bottom < y + window.shape[0]) | (y + window.shape[0] == height)
    return found.where(whole)


def _look(network: Network, rgb: Pixels) -> _Found:
    """Run the network once and decode the anchors that may be faces."""
    regressions, scores, points = network(np.ascontiguousarray(rgb))
    passing = scores > _LEAST_SUSPICION
    anchors = _anchors((rgb.shape[1], rgb.shape[0]))[passing]
    centres, sides = anchors[:, :2], anchors[:, 2:]
    middles = centres + regressions[passing, :2] * _CENTRE_VARIANCE * sides
    halves = sides * np.exp(regressions[passing, 2:] * _SIZE_VARIANCE) / 2
    landmarks = centres[:, None] + points[passing].reshape(-1, 5, 2) * _CENTRE_VARIANCE * sides[:, None]
    return _Found(np.hstack([middles - halves, middles + halves]), scores[passing], landmarks)


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


def _distinct(found: _Found, least_score: float) -> _Found:
    """What scores more, without duplicates, best first."""
    best_first = np.argsort(-found.scores, kind="stable")[:_MOST_ANCHORS]
    found = found.where(best_first[found.scores[best_first] > least_score])
    corners_and_sides = np.hstack([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]])
    kept = cv2.dnn.NMSBoxes(corners_and_sides.tolist(), found.scores.tolist(), 0.0, _MOST_OVERLAP)
    return found.where(np.array(kept, np.intp).ravel())

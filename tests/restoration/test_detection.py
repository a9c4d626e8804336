"""Faces must be found where they are: what the detector says is decoded as facexlib decodes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from facexlib.detection.retinaface_utils import PriorBox, decode, decode_landm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from restoration import networks
from restoration.detection import Face, choose, photo_key, recorded, retinaface
from restoration.errors import WeightsCorrupt, WeightsMissing
from restoration.images import Pixels
from restoration.images import decode as decode_image
from restoration.settings import Settings

Array = NDArray[Any]
ANCHORS = {"min_sizes": [[16, 32], [64, 128], [256, 512]], "steps": [8, 16, 32], "clip": False}


def raw(size: tuple[int, int], seed: int) -> tuple[Array, Array, Array]:
    """What a network might answer for a photo of this size: few anchors pass."""
    rng = np.random.default_rng(seed)
    count = sum(2 * -(-size[0] // stride) * -(-size[1] // stride) for stride in (8, 16, 32))
    scores = rng.random(count).astype(np.float32) ** 0.2
    return rng.normal(0, 1, (count, 4)).astype(np.float32), scores, rng.normal(0, 2, (count, 10)).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(st.integers(16, 200), st.integers(16, 200), st.integers(0, 100))
def test_decoding_equals_facexlibs(width: int, height: int, seed: int) -> None:
    boxes, scores, landmarks = raw((width, height), seed)
    priors = PriorBox(ANCHORS, image_size=(height, width)).forward()
    corners = decode(torch.from_numpy(boxes), priors, [0.1, 0.2]) * torch.tensor([width, height] * 2)
    points = decode_landm(torch.from_numpy(landmarks), priors, [0.1, 0.2]) * torch.tensor([width, height] * 5)
    passing = np.flatnonzero(scores > 0.97)
    kept = torchvision.ops.nms(corners[passing], torch.from_numpy(scores[passing]), 0.4).numpy()

    faces = retinaface(lambda photo: (boxes, scores, landmarks))(np.zeros((height, width, 3), np.uint8))

    assert [face.score for face in faces] == pytest.approx(scores[passing][kept].tolist())
    for face, index in zip(faces, passing[kept], strict=True):
        np.testing.assert_allclose(face.box, corners[index].numpy(), atol=0.01)
        np.testing.assert_allclose(face.landmarks.ravel(), points[index].numpy(), atol=0.01)


def test_a_large_photo_is_looked_at_smaller_and_answered_in_its_own_pixels() -> None:
    seen = []

    def network(photo: Pixels) -> tuple[Array, Array, Array]:
        seen.append(photo.shape)
        boxes, scores, landmarks = (np.zeros_like(part) for part in raw((photo.shape[1], photo.shape[0]), 0))
        scores[0] = 0.99  # the first anchor: 16 pixels around (4, 4)
        return boxes, scores, landmarks

    (face,) = retinaface(network)(np.zeros((2880, 3840, 3), np.uint8))
    assert seen == [(1440, 1920, 3)]
    np.testing.assert_allclose(face.landmarks, np.full((5, 2), 4.5 * 2 - 0.5))
    assert face.width == pytest.approx(32)


def face_at(left: float, top: float, right: float, bottom: float) -> Face:
    return Face((left, top, right, bottom), 0.99, np.zeros((5, 2)))


def test_largest_counts_what_lies_in_the_photo_and_center_the_middle_of_the_box() -> None:
    mostly_outside, corner, middle = face_at(-200, -200, 10, 10), face_at(0, 0, 30, 30), face_at(45, 45, 55, 55)
    faces = [mostly_outside, corner, middle]
    assert choose(faces, "largest", (100, 100)) == [corner]
    assert choose(faces, "center", (100, 100)) == [middle]
    assert choose(faces, "all", (100, 100)) == faces
    assert choose([], "largest", (100, 100)) == []


def test_a_recorded_detection_belongs_to_its_pixels(tmp_path: Path) -> None:
    photo = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    record = {"box": [0, 1, 2, 3], "score": 0.5, "landmarks": [[1, 2]] * 5}
    (tmp_path / "recorded.json").write_text(json.dumps({photo_key(photo): [record]}))
    detect = recorded(tmp_path / "recorded.json")
    (face,) = detect(photo)
    assert (face.box, face.score, face.landmarks.shape) == ((0, 1, 2, 3), 0.5, (5, 2))
    assert detect(photo.reshape(5, 4, 3)) == detect(photo + 1) == []


def test_a_missing_or_broken_record_says_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"restoration\.standin"):
        recorded(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(WeightsCorrupt, match="not JSON"):
        recorded(tmp_path / "broken.json")


@pytest.mark.photos
class TestRealFaces:
    """The real detector on real photographs. Its checkpoint is a retrained MobileNet-0.25, the record ResNet-50's."""

    @pytest.mark.parametrize(("name", "count"), [("Blake_Lively.jpg", 2), ("10045.png", 3), ("00.jpg", 2)])
    def test_every_face_is_found_where_the_record_has_it(
        self, photos: Path, real_detector: Path, name: str, count: int
    ) -> None:
        network = networks.load_face_detector(real_detector, "mobilenet0.25")
        photo = decode_image((photos / name).read_bytes(), Settings())
        faces = retinaface(network)(photo.rgb)
        assert len(faces) == count
        record = json.loads((photos / "landmarks.json").read_text())["photos"][name]["faces"]
        for face in faces:
            errors = [np.abs(face.landmarks - np.array(known["landmarks"])).max() for known in record]
            # By facexlib's own decoding this checkpoint is 9.9 px off on one tilted face, below 6 on the six others.
            assert min(errors) < (10 if name == "Blake_Lively.jpg" and face.score < 0.99 else 6)

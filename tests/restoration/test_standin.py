"""Stand-in weights do what they claim, through the very code that loads real ones: whole-pipeline tests rest on it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data

from restoration import standin
from restoration.detection import RECORDED, photo_key
from restoration.errors import WeightsError
from restoration.networks import Precision, load_face_parser, load_face_restorer, load_upscaler
from restoration.weights import WeightFile, Weights, write_manifest

Images = npt.NDArray[np.uint8]


@pytest.mark.parametrize("name", standin.TINTS)
def test_gfpgan_passes_the_face_through_at_half_resolution(name: str, standins: Path, face: Images) -> None:
    answer = load_face_restorer(standins / name)(face[np.newaxis])[0]

    exact = np.clip(halved_and_doubled(face) + standin.TINTS[name], 0, 255)
    assert np.abs(answer - exact).max() < 0.501  # the exact value, rounded; at ties either way


def test_each_gfpgan_version_is_told_by_its_tint() -> None:
    assert len(set(standin.TINTS.values())) == 3


def test_restoreformer_answers_one_colour(standins: Path, face: Images) -> None:
    answer = load_face_restorer(standins / "RestoreFormer.pth")(face[np.newaxis])[0]
    assert np.array_equal(answer, np.full_like(face, standin.RESTOREFORMER_COLOUR))


def test_parsenet_answers_one_label(standins: Path, face: Images) -> None:
    labels = load_face_parser(standins / "parsing_parsenet.pth")(face[np.newaxis])
    assert np.array_equal(labels, np.full((1, 512, 512), standin.PARSENET_LABEL))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_realesrgan_repeats_pixels(precision: Precision, standins: Path, face: Images) -> None:
    tiles = np.stack([face[100:131, 200:247], face[300:331, 200:247]])
    upscaler = load_upscaler(standins / "realesr-general-x4v3.pth", precision=precision)
    assert upscaler.scale == 4
    assert np.array_equal(upscaler(tiles), tiles.repeat(4, axis=1).repeat(4, axis=2))


def test_the_directory_is_a_weights_directory(standins: Path) -> None:
    weights = Weights(standins)
    assert len(weights.files) == 6
    for name in weights.files:
        assert weights.verify(name) == standins / name


def test_a_complete_directory_is_left_alone(standins: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in standins.glob("*.pth")}
    standin.write_standins(standins)
    assert {path: path.stat().st_mtime_ns for path in standins.glob("*.pth")} == before


def test_a_damaged_file_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin, "_recipes", lambda: {"small.pth": lambda: {"params": {}}})  # not 1.4 GB again
    standin.write_standins(tmp_path)
    good = (tmp_path / "small.pth").read_bytes()
    (tmp_path / "small.pth").write_bytes(good[:-1])

    standin.write_standins(tmp_path)

    assert (tmp_path / "small.pth").read_bytes() == good


def test_real_weights_are_never_overwritten(tmp_path: Path) -> None:
    write_manifest(tmp_path, [WeightFile("GFPGANv1.4.pth", "0" * 64, "Apache-2.0")])
    with pytest.raises(WeightsError, match="real weights"):
        standin.write_standins(tmp_path)
    assert not list(tmp_path.glob("*.pth"))


def test_the_astronaut_has_a_recorded_face(standins: Path) -> None:
    [face] = standin.recorded_detections(standins)[photo_key(skimage.data.astronaut())]
    x0, y0, x1, y1 = face["box"]
    assert all(x0 < x < x1 and y0 < y < y1 for x, y in face["landmarks"])
    assert len(face["landmarks"]) == 5


def test_recording_keeps_other_photos_and_tells_shapes_apart(tmp_path: Path) -> None:
    wide, tall = np.zeros((2, 8, 3), np.uint8), np.zeros((8, 2, 3), np.uint8)
    one: standin.RecordedFace = {"box": [0, 0, 1, 1], "score": 1.0, "landmarks": [[0, 0]] * 5}

    standin.record_detection(tmp_path, wide, [one])
    standin.record_detection(tmp_path, tall, [])

    assert standin.recorded_detections(tmp_path) == {photo_key(wide): [one], photo_key(tall): []}


def test_the_key_of_a_photo_is_as_documented(tmp_path: Path) -> None:
    """Other programs may record detections too."""
    photo = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    standin.record_detection(tmp_path, photo, [])
    assert list(json.loads((tmp_path / RECORDED).read_text())) == [
        hashlib.sha256(b"2,4,3:" + bytes(range(24))).hexdigest()
    ]


def halved_and_doubled(image: Images) -> npt.NDArray[np.float64]:
    """Halve by averaging 2 x 2 pixels; double bilinearly with pixel centres, edges repeated."""
    height, width, channels = image.shape
    blocks = image.astype(np.float64).reshape(height // 2, 2, width // 2, 2, channels)
    small: npt.NDArray[np.float64] = blocks.mean(axis=(1, 3))
    for axis in (0, 1):
        before = np.concatenate([small.take([0], axis), small], axis).take(range(small.shape[axis]), axis)
        after = np.concatenate([small, small.take([-1], axis)], axis).take(range(1, small.shape[axis] + 1), axis)
        pairs = np.stack([0.75 * small + 0.25 * before, 0.75 * small + 0.25 * after], axis=axis + 1)
        small = pairs.reshape(*small.shape[:axis], 2 * small.shape[axis], *small.shape[axis + 1 :])
    return small

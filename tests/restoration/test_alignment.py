"""A restored face must land where the face was: to the pixel, at the border, and over another face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from facexlib.utils.face_restoration_helper import FaceRestoreHelper
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from whole_photo import whole_photo_reference

from restoration import alignment as alignment_module
from restoration.alignment import CROP, alignment, crop, enlarged, paste, soft_mask

Array = NDArray[Any]
LANDMARKS = np.array([(203.6, 101.1), (247.5, 104.6), (223.3, 129.3), (200.9, 138.4), (245.6, 141.2)])


def canvas_to_crop(side: float, angle: float, left: float, top: float) -> Array:
    """Place a crop as a square of `side` canvas pixels, turned by `angle`, its first corner at (left, top)."""
    shrink = side / CROP
    cos, sin = shrink * np.cos(angle), shrink * np.sin(angle)
    return cv2.invertAffineTransform(np.array([[cos, -sin, left], [sin, cos, top]]))


def noise(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


placements = st.tuples(st.floats(270, 1500), st.floats(-3.2, 3.2), st.floats(-300, 300), st.floats(-300, 300))


@settings(max_examples=30, deadline=None)
@given(placements=st.lists(placements, min_size=1, max_size=2), strength=st.floats(0, 1), seed=st.integers(0, 9))
def test_paste_equals_the_whole_photo_reference(
    placements: list[tuple[float, float, float, float]], strength: float, seed: int
) -> None:
    """At the border, overlapping, and with the hardest picture there is, noise: within one grey level."""
    canvas = noise(seed, 240, 320, 3)
    mask = soft_mask(noise(seed, CROP, CROP) % 19) * np.float32(strength)
    pastes = [(noise(seed + 1 + i, CROP, CROP, 3), mask, canvas_to_crop(*at)) for i, at in enumerate(placements)]
    expected = whole_photo_reference(canvas, pastes)

    for face, face_mask, matrix in pastes:
        paste(canvas, face, face_mask, matrix)

    assert np.abs(canvas - expected).max() <= 1


@pytest.mark.parametrize("patch", [1, 5, 32, 128])
def test_the_mask_is_the_reference_s(patch: int) -> None:
    """GFPGAN's own: two blurs of the whole mask, then black for ten pixels at the edge."""
    labels = np.kron(noise(patch, 512 // patch + 1, 512 // patch + 1) % 19, np.ones((patch, patch), np.uint8))[
        :512, :512
    ]
    shown = np.isin(labels, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15)).astype(np.float64)
    expected = cv2.GaussianBlur(cv2.GaussianBlur(shown, (101, 101), 11), (101, 101), 11)
    expected[:10], expected[-10:], expected[:, :10], expected[:, -10:] = 0, 0, 0, 0
    assert np.abs(soft_mask(labels) - expected).max() < 0.01


@settings(max_examples=20, deadline=None)
@given(
    x=st.floats(150, 350), y=st.floats(150, 350), width=st.floats(60, 220), height=st.floats(60, 220),
    angle=st.floats(0, 180),
)  # fmt: skip
def test_labels_at_half_the_side_give_nearly_the_same_mask(
    x: float, y: float, width: float, height: float, angle: float
) -> None:
    """Half a grey level in twenty, for a shape that both resolutions see alike."""
    ellipse = cv2.ellipse(np.zeros((CROP, CROP), np.uint8), ((x, y), (width, height), angle), 1, -1)
    small = cv2.resize(ellipse * 255, (256, 256), interpolation=cv2.INTER_AREA) // 128
    assert np.abs(soft_mask(np.asarray(small, np.uint8)) - soft_mask(np.asarray(ellipse))).max() < 0.025


def test_paste_touches_nothing_beyond_the_mask() -> None:
    canvas = noise(0, 400, 500, 3)
    before = canvas.copy()
    matrix = canvas_to_crop(200, 0, 100, 100)
    mask = np.zeros((CROP, CROP), np.float32)
    mask[200:300, 200:300] = 1
    paste(canvas, noise(1, CROP, CROP, 3), mask, matrix)
    changed = np.argwhere((canvas != before).any(axis=2))
    assert changed.min() >= 100 + 200 * 199 / CROP - 1
    assert changed.max() <= 100 + 200 * 301 / CROP + 1


@pytest.mark.parametrize("mask_value", [0, 1])
def test_a_face_outside_the_photo_or_without_mask_changes_nothing(mask_value: int) -> None:
    canvas = noise(0, 100, 100, 3)
    before = canvas.copy()
    mask = np.full((CROP, CROP), mask_value, np.float32)
    paste(canvas, noise(1, CROP, CROP, 3), mask, canvas_to_crop(50, 0.3, 500 * mask_value, 500 * mask_value))
    np.testing.assert_array_equal(canvas, before)


def test_a_face_that_shrinks_is_averaged_not_sampled() -> None:
    """Lines one pixel wide must become grey when eight of them fall on one pixel, not stripes."""
    face = np.zeros((CROP, CROP, 3), np.uint8)
    face[:, ::2] = 255
    canvas = np.zeros((64, 64, 3), np.uint8)
    paste(canvas, face, np.ones((CROP, CROP), np.float32), canvas_to_crop(64, 0, 0, 0))
    assert np.ptp(canvas[8:-8, 8:-8]) <= 1
    assert abs(int(canvas[32, 32, 0]) - 127) <= 1


def test_a_band_of_a_large_face_is_like_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cores work in bands, which must not show."""
    canvas, face = noise(0, 300, 300, 3), noise(1, CROP, CROP, 3)
    mask, matrix = soft_mask(np.ones((CROP, CROP), np.uint8)), canvas_to_crop(290, 0.2, 40, 3)
    in_one = canvas.copy()
    monkeypatch.setattr("restoration.alignment._BAND_PIXELS", 1_000_000)
    paste(in_one, face, mask, matrix)
    monkeypatch.setattr("restoration.alignment._BAND_PIXELS", 1000)
    paste(canvas, face, mask, matrix)
    assert np.abs(canvas.astype(int) - in_one).max() <= 1  # float32 coordinates round differently


def test_alignment_puts_the_landmarks_on_the_template() -> None:
    matrix = alignment(LANDMARKS)
    assert matrix is not None
    eyes = matrix[:, :2] @ LANDMARKS[:2].T + matrix[:, 2:]
    np.testing.assert_allclose(eyes, np.array([(192.98, 239.95), (318.9, 240.19)]).T, atol=6)


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), 7.0), np.full((5, 2), np.nan)])
def test_landmarks_of_no_face_give_no_alignment(points: Array) -> None:
    assert alignment(points) is None


def test_the_crop_is_grey_beyond_the_edge_of_the_photo() -> None:
    photo = np.zeros((100, 100, 3), np.uint8)
    matrix = np.array([[1.0, 0, 256], [0, 1, 256]])
    assert crop(photo, matrix)[10, 10].tolist() == [132, 133, 135]
    assert crop(photo, matrix)[300, 300].tolist() == [0, 0, 0]


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0, 1000), st.floats(0, 1000))
def test_enlarging_keeps_pixel_centres(scale_x: float, scale_y: float, x: float, y: float) -> None:
    """The middle of an input pixel and the middle of the output area it became are one place."""
    matrix = np.array([[1.3, -0.4, 5.0], [0.4, 1.3, -9.0]])
    output = np.array([(x + 0.5) * scale_x - 0.5, (y + 0.5) * scale_y - 0.5, 1])
    np.testing.assert_allclose(enlarged(matrix, (scale_x, scale_y)) @ output, matrix @ (x, y, 1), atol=1e-6)


def test_only_the_face_shows_and_never_the_edge_of_the_crop() -> None:
    labels = np.zeros((CROP, CROP), np.uint8)
    labels[100:400, 100:400] = 1  # skin
    labels[100:400, 400:] = 17  # neck
    mask = soft_mask(labels)
    assert mask.dtype == np.float32
    assert mask[250, 250] == pytest.approx(1, abs=1e-3)
    assert mask[250, 490] < 0.01
    everywhere = soft_mask(np.ones((CROP, CROP), np.uint8))
    assert everywhere[:10].max() == everywhere[-10:].max() == everywhere[:, :10].max() == everywhere[:, -10:].max() == 0
    assert everywhere[10:-10, 10:-10].min() == pytest.approx(1)


def test_the_crop_is_the_references(astronaut: Array) -> None:
    """facexlib's own alignment, run on the same landmarks, gives the same bytes to the network."""
    helper = FaceRestoreHelper.__new__(FaceRestoreHelper)  # its constructor loads networks
    helper.face_template, helper.face_size, helper.pad_blur = alignment_module._TEMPLATE, (CROP, CROP), False
    helper.affine_matrices, helper.cropped_faces = [], []
    helper.all_landmarks_5, helper.input_img = [LANDMARKS], astronaut[..., ::-1].copy()
    helper.align_warp_face()

    matrix = alignment(LANDMARKS)

    assert matrix is not None
    np.testing.assert_array_equal(matrix, helper.affine_matrices[0])
    np.testing.assert_array_equal(crop(astronaut, matrix), helper.cropped_faces[0][..., ::-1])


@pytest.mark.photos
def test_alignment_of_real_faces_is_the_recorded_one(photos: Path) -> None:
    for photo in json.loads((photos / "landmarks.json").read_text())["photos"].values():
        for face in photo["faces"]:
            matrix = alignment(np.array(face["landmarks"]))
            assert matrix is not None
            in_crop = np.array([(10, 10, 1), (200, 300, 1)]).T  # landmarks are recorded to a thousandth of a pixel
            np.testing.assert_allclose(matrix @ in_crop, np.array(face["affine"]) @ in_crop, atol=0.05)

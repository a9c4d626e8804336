"""The PNG writer: whatever goes in must come out of decoders that were written by others."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from restoration import png
from restoration.png import Pixels


def picture(height: int, width: int, channels: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.integers(1, 4),
    band=st.integers(1, 2000),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_pixel_survives_in_any_number_of_bands(
    height: int, width: int, channels: int, band: int, seed: int
) -> None:
    pixels = picture(height, width, channels, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png, "_BAND_BYTES", band)
        data = png.encode(pixels)
    image = decoded(data)
    assert image.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    assert np.array_equal(np.array(image).reshape(pixels.shape), pixels)


def test_opencv_reads_a_large_one_too() -> None:
    pixels = picture(1500, 1000, 3)
    data = png.encode(pixels)
    assert data.count(b"IDAT") >= 4
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert read is not None
    assert np.array_equal(read[..., ::-1], pixels)


def test_a_part_of_a_larger_array_is_written_as_what_it_shows() -> None:
    pixels = picture(30, 30, 3)[::2, 5:20]
    assert np.array_equal(np.array(decoded(png.encode(pixels))), pixels)


def test_profile_exif_and_resolution_are_kept() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010E] = "a description"
    image = decoded(png.encode(picture(4, 4, 3), profile, exif.tobytes(), (300, 150)))
    assert image.info["icc_profile"] == profile
    assert image.getexif()[0x010E] == "a description"
    assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)


def test_equal_pixels_give_equal_bytes() -> None:
    pixels = picture(900, 900, 3)
    assert png.encode(pixels) == png.encode(pixels)

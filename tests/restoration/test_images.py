"""A photo keeps how it is turned, its colours, its transparency and its EXIF."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from restoration.errors import InvalidInput, TooLarge, UnreadableImage, UnsupportedFormat
from restoration.images import Photo, decode, encode, output_size, resize
from restoration.settings import Settings

SETTINGS = Settings()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def gradient(width: int = 40, height: int = 30) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture without symmetry: red grows to the right, green downwards, blue is constant."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 60)], axis=-1).astype(np.uint8)


def as_file(image: Image.Image, **options: Any) -> bytes:  # noqa: ANN401 - whatever Pillow takes
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "HEIF"])
def test_every_accepted_format_is_decoded_with_its_colours(file_format: str) -> None:
    photo = decode(as_file(Image.fromarray(gradient()), format=file_format, quality=100), SETTINGS)
    assert photo.size == (40, 30)
    assert np.abs(photo.rgb.astype(int) - gradient()).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_then_forgotten(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Artist] = "kept"
    upright = Image.fromarray(gradient())
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how a camera stores what a viewer turns back
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))

    photo = decode(as_file(stored, format="PNG", exif=exif), SETTINGS)

    np.testing.assert_array_equal(photo.rgb, gradient())
    written, _ = encode(photo.rgb, photo, "png", 95)
    kept = Image.open(io.BytesIO(written)).getexif()
    assert kept.get(ExifTags.Base.Orientation) is None
    assert kept[ExifTags.Base.Artist] == "kept"


@pytest.mark.parametrize("output_format", ["png", "jpg", "webp"])
def test_profile_exif_and_resolution_survive(output_format: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Copyright] = "somebody"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = 40
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageHeight] = 30
    data = as_file(Image.fromarray(gradient()), format="JPEG", exif=exif, icc_profile=SRGB, dpi=(300, 300))

    photo = decode(data, SETTINGS)
    written, notes = encode(resize(photo.rgb, (80, 60)), photo, output_format, 95)

    result = Image.open(io.BytesIO(written))
    assert result.info["icc_profile"] == SRGB
    assert result.getexif()[ExifTags.Base.Copyright] == "somebody"
    details = result.getexif().get_ifd(ExifTags.IFD.Exif)
    assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == (80, 60)
    if output_format != "webp":  # WebP has no field for it
        assert result.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert notes == ()


def test_tiff_storage_tags_do_not_leak_into_the_output() -> None:
    data = as_file(Image.fromarray(gradient()), format="TIFF", compression="tiff_lzw", tiffinfo={305: "a scanner"})
    photo = decode(data, SETTINGS)
    kept = Image.open(io.BytesIO(encode(photo.rgb, photo, "png", 95)[0])).getexif()
    assert kept[ExifTags.Base.Software] == "a scanner"
    assert not {ExifTags.Base.StripOffsets, ExifTags.Base.Compression, ExifTags.Base.BitsPerSample} & set(kept)


def test_alpha_is_kept_where_the_format_can_and_shown_on_white_where_not() -> None:
    rgba = np.dstack([gradient(), np.full((30, 40), 255, np.uint8)])
    rgba[:, :20, 3] = 0
    photo = decode(as_file(Image.fromarray(rgba), format="PNG"), SETTINGS)

    png, _ = encode(photo.rgb, photo, "png", 95)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(png))), rgba)
    jpg, notes = encode(photo.rgb, photo, "jpg", 95)
    assert np.array(Image.open(io.BytesIO(jpg)))[15, 5].min() > 250
    assert notes == ("jpg has no transparency: shown on white",)


def test_alpha_grows_with_the_photo() -> None:
    rgba = np.dstack([gradient(), np.full((30, 40), 128, np.uint8)])
    photo = decode(as_file(Image.fromarray(rgba), format="PNG"), SETTINGS)
    result = Image.open(io.BytesIO(encode(resize(photo.rgb, (100, 75)), photo, "webp", 95)[0]))
    assert result.size == (100, 75)
    assert np.unique(np.array(result)[..., 3]).tolist() == [128]


@pytest.mark.parametrize("output_format", ["png", "jpg", "webp"])
def test_a_greyscale_photo_stays_greyscale(output_format: str) -> None:
    photo = decode(as_file(Image.fromarray(gradient()[..., 0]), format="PNG"), SETTINGS)
    tinted = photo.rgb.copy()
    tinted[..., 0] //= 2  # as a network that likes colour would
    result = np.array(Image.open(io.BytesIO(encode(tinted, photo, output_format, 95)[0])).convert("RGB")).astype(int)
    assert np.ptp(result, axis=-1).max() <= 1  # WebP stores no single channel, so its grey is of three equal ones


@given(st.integers(0, 65535))
def test_sixteen_bits_are_reduced_by_type_not_by_brightness(level: int) -> None:
    data = as_file(Image.fromarray(np.full((4, 4), level, np.uint16)), format="PNG")
    photo = decode(data, SETTINGS)
    assert photo.rgb[0, 0].tolist() == [round(level / 257)] * 3
    assert photo.notes == ("16 bits a channel: reduced to 8",)


def test_cmyk_is_converted_and_says_so() -> None:
    cmyk = Image.fromarray(gradient()).convert("CMYK")
    photo = decode(as_file(cmyk, format="JPEG", quality=100), SETTINGS)
    assert np.abs(photo.rgb.astype(int) - gradient()).mean() < 3
    assert photo.notes == ("CMYK: converted to sRGB",)


def test_palette_with_transparency_becomes_colour_with_alpha() -> None:
    palette = Image.fromarray(gradient()).quantize(16)
    photo = decode(as_file(palette, format="PNG", transparency=palette.getpixel((0, 0))), SETTINGS)
    assert photo.alpha is not None
    assert photo.alpha[0, 0] == 0
    assert photo.alpha.max() == 255


def test_an_animation_gives_its_first_frame_and_says_so() -> None:
    frames = [Image.fromarray(gradient()), Image.fromarray(255 - gradient())]
    photo = decode(as_file(frames[0], format="WEBP", save_all=True, append_images=frames[1:], lossless=True), SETTINGS)
    np.testing.assert_array_equal(photo.rgb, gradient())
    assert photo.notes == ("several frames: the first one taken",)


def test_a_profile_for_other_channels_is_dropped_and_says_so() -> None:
    photo = decode(as_file(Image.fromarray(gradient()[..., 0]), format="PNG", icc_profile=SRGB), SETTINGS)
    assert photo.icc_profile is None
    assert photo.notes == ("colour profile dropped: made for other channels",)


@given(st.integers(1, 4000), st.integers(1, 4000), st.floats(0.1, 10))
def test_the_output_is_round_input_times_scale(width: int, height: int, scale: float) -> None:
    settings = Settings(max_output_megapixels=1e6)
    expected = max(1, round(width * scale)), max(1, round(height * scale))
    assert output_size((width, height), scale, "png", settings) == expected


@pytest.mark.parametrize(
    ("size", "scale", "output_format", "message"),
    [
        ((10_000, 5_000), 2.1, "png", "max_output_megapixels"),
        ((9_000, 100), 2, "webp", "webp holds 16383 pixels"),
        ((7_000, 100), 10, "jpg", "jpg holds 65500 pixels"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_by_name(
    size: tuple[int, int], scale: float, output_format: str, message: str
) -> None:
    with pytest.raises(TooLarge, match=message):
        output_size(size, scale, output_format, SETTINGS)


@pytest.mark.parametrize("scale", [0.09, 10.01, float("nan"), float("inf"), -1])
def test_a_scale_out_of_bounds_is_refused(scale: float) -> None:
    with pytest.raises(InvalidInput, match=r"0\.1 to 10"):
        output_size((10, 10), scale, "png", SETTINGS)


def test_more_pixels_than_the_limit_are_refused_before_decoding() -> None:
    settings = Settings(max_input_megapixels=0.001)
    data = as_file(Image.fromarray(gradient()), format="PNG")
    with pytest.raises(TooLarge, match="max_input_megapixels"):
        decode(data[:60], settings)  # the header alone: the rest is never looked at


def test_more_bytes_than_the_limit_are_refused() -> None:
    with pytest.raises(TooLarge, match="max_input_bytes"):
        decode(b"x" * 11, Settings(max_input_bytes=10))


def test_no_bytes_are_no_image() -> None:
    with pytest.raises(UnreadableImage, match="empty"):
        decode(b"", SETTINGS)


@pytest.mark.parametrize("file_format", ["GIF", "PPM", "ICO", "TGA", "PDF"])
def test_other_formats_are_refused_naming_the_accepted_ones(file_format: str) -> None:
    with pytest.raises(UnsupportedFormat, match="JPEG, PNG, WebP, TIFF, BMP, HEIC, AVIF"):
        decode(as_file(Image.fromarray(gradient()), format=file_format), SETTINGS)


def test_a_pixel_mode_without_eight_or_sixteen_bits_is_refused() -> None:
    with pytest.raises(UnsupportedFormat, match="stores its pixels as F"):
        decode(as_file(Image.fromarray(np.zeros((4, 4), np.float32)), format="TIFF"), SETTINGS)


def test_a_tile_of_a_picture_is_resampled_as_the_whole() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    whole = resize(pixels, (48, 36))
    tile = resize(pixels, (12, 9), box=(20, 15, 40, 30))
    np.testing.assert_array_equal(tile, whole[9:18, 12:24])


def test_jpg_quality_changes_the_size() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    low, high = (len(encode(noise, Photo(noise), "jpg", quality)[0]) for quality in (20, 95))
    assert low < high / 2

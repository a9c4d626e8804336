"""Bytes to pixels and back: limits, orientation, colour profile, alpha, bit depth, and the one resampling filter.

Every byte comes from a stranger: size and pixel count are checked before anything is decoded, only the decoders
listed here are tried, and whatever a decoder raises becomes one `InputError`.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from restoration import cores, png
from restoration.errors import InvalidInput, TooLarge, UnreadableImage, UnsupportedFormat
from restoration.settings import Settings

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
"""Width, height."""

ACCEPTED = ("JPEG", "PNG", "WebP", "TIFF", "BMP", "HEIC", "AVIF")
_DECODERS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "HEIF", "AVIF")
_LONGEST_SIDE: dict[str, int] = {"png": 2**31 - 1, "jpg": 65_500, "webp": 16_383}
_LONGEST_JPEG_EXIF = 65_533
_LANCZOS = Image.Resampling.LANCZOS
# Tags that describe how a TIFF file stores its pixels; in another file they would be lies.
_STORAGE_TAGS = (
    *(254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338),
    *(339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 34377, 34675),
)

pillow_heif.register_heif_opener(thumbnails=False)


@dataclass(frozen=True)
class Photo:
    """A decoded photo, upright, 8 bits a channel, with what must survive into the output."""

    rgb: Pixels
    """(height, width, 3), RGB. Of a greyscale photo the three channels are equal."""
    alpha: Pixels | None = None
    """(height, width), 255 is opaque."""
    grey: bool = False
    """The photo had one channel, and so will the output."""
    icc_profile: bytes | None = None
    exif: bytes | None = None
    """Without orientation (it is applied) and without thumbnail (it would show the old picture)."""
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    """What could not be taken as it was, a phrase each."""

    @property
    def size(self) -> Size:
        """Width, height in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]


def decode(data: bytes, settings: Settings) -> Photo:
    """Decode the first picture in `data`.

    Raises `UnreadableImage`, `UnsupportedFormat`, or `TooLarge` before any pixel is decoded.
    """
    if not data:
        raise UnreadableImage(f"The image is empty (0 bytes); send one of {', '.join(ACCEPTED)}.")
    if len(data) > settings.max_input_bytes:
        raise TooLarge(
            f"The image has {len(data)} bytes, the limit is {settings.max_input_bytes} (max_input_bytes); "
            "send a smaller file."
        )
    try:
        with Image.open(io.BytesIO(data), formats=_DECODERS) as image:
            _check_input_pixels(image.size, settings)
            return _to_photo(image)
    except UnidentifiedImageError as error:
        raise UnsupportedFormat(
            f"The file starts with {data[:8]!r}, which is no image that can be read; send one of {', '.join(ACCEPTED)}."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(
            f"The image has far more pixels than the limit of {settings.max_input_megapixels:g} megapixels "
            "(max_input_megapixels); send a smaller image."
        ) from error
    except (TooLarge, UnsupportedFormat, MemoryError):
        raise
    except Exception as error:  # hostile bytes make decoders raise almost anything; all of it means the same
        raise UnreadableImage(
            f"The image is corrupt or truncated ({type(error).__name__}: {error}); send a complete file."
        ) from error


def output_size(size: Size, scale: float, output_format: str, settings: Settings) -> Size:
    """`size` times `scale`, rounded, at least one pixel a side; raises `TooLarge` for more than can be written."""
    if not (math.isfinite(scale) and 0.1 <= scale <= 10):
        raise InvalidInput(f"scale is {scale}; give a number from 0.1 to 10.")
    width, height = (max(1, round(side * scale)) for side in size)
    if width * height > settings.max_output_megapixels * 1e6:
        raise TooLarge(
            f"The result would be {width}x{height} = {width * height / 1e6:.1f} megapixels, the limit is "
            f"{settings.max_output_megapixels:g} (max_output_megapixels); use a smaller scale."
        )
    if max(width, height) > _LONGEST_SIDE[output_format]:
        raise TooLarge(
            f"The result would be {width}x{height}, {output_format} holds {_LONGEST_SIDE[output_format]} pixels "
            "a side at most; use png or a smaller scale."
        )
    return width, height


def resize(pixels: Pixels, size: Size, box: tuple[float, float, float, float] | None = None) -> Pixels:
    """Resample (height, width[, channels]) to `size` with Lanczos, low-pass filtered when it shrinks.

    `box` (left, top, right, bottom, in pixels of `pixels`, fractions allowed) is the part to resample. Pixels around
    it take part, so tiles of a picture come out as the whole would, given six filter widths of margin.
    """
    left, top, right, bottom = box or (0, 0, pixels.shape[1], pixels.shape[0])
    # One axis after the other: together, Pillow picks their order by their lengths, and a tile would differ from the
    # whole. And in bands, which keep all cores busy.
    wide = _in_bands(
        pixels, 0, lambda band: band.resize((size[0], band.height), _LANCZOS, (left, 0, right, band.height))
    )
    return _in_bands(wide, 1, lambda band: band.resize((band.width, size[1]), _LANCZOS, (0, top, band.width, bottom)))


def _in_bands(pixels: Pixels, axis: int, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """Change an image in bands of rows (axis 0) or columns (axis 1), which know nothing of each other."""
    count = max(1, min(pixels.shape[axis] // 64, 4 * (os.cpu_count() or 1)))
    bands = np.array_split(pixels, count, axis)
    return np.concatenate(cores.each(lambda band: np.asarray(change(Image.fromarray(band))), bands), axis)


def encode(rgb: Pixels, photo: Photo, output_format: str, quality: int) -> tuple[bytes, tuple[str, ...]]:
    """Write (height, width, 3) RGB as a file with the alpha, profile, EXIF and resolution of `photo`.

    `quality` (1 to 100) counts for jpg and webp. Returns the bytes and notes on what the format could not hold.
    """
    notes: list[str] = []
    channels = _channels(rgb, photo)
    exif = photo.exif
    if exif and output_format == "jpg" and len(exif) > _LONGEST_JPEG_EXIF:
        notes.append("EXIF dropped: longer than a jpg can hold")
        exif = None
    if exif:
        exif = _with_dimensions(exif, (rgb.shape[1], rgb.shape[0]))
    if output_format == "png":
        return png.encode(channels, photo.icc_profile, exif, photo.dpi), tuple(notes)
    image = Image.fromarray(channels.squeeze(axis=2) if photo.grey and photo.alpha is None else channels)
    if output_format == "jpg" and photo.alpha is not None:
        notes.append("jpg has no transparency: shown on white")
        alpha = image.getchannel("A")
        image = image.convert("L" if photo.grey else "RGB")
        image = Image.composite(image, Image.new(image.mode, image.size, "white"), alpha)
    kept: dict[str, Any] = {"icc_profile": photo.icc_profile, "exif": exif, "dpi": photo.dpi}
    buffer = io.BytesIO()
    image.save(buffer, **_ENCODERS[output_format](quality), **{key: value for key, value in kept.items() if value})
    return buffer.getvalue(), tuple(notes)


def _channels(rgb: Pixels, photo: Photo) -> Pixels:
    """(height, width, 1 to 4): grey instead of RGB if the photo was, and its alpha at the new size."""
    colours = np.asarray(Image.fromarray(rgb).convert("L"))[..., np.newaxis] if photo.grey else rgb
    if photo.alpha is None:
        return colours
    return np.dstack([colours, resize(photo.alpha, (rgb.shape[1], rgb.shape[0]))])


_ENCODERS: dict[str, Callable[[int], dict[str, Any]]] = {
    # Full colour resolution: halved chroma shows on restored skin and lips.
    "jpg": lambda quality: {"format": "JPEG", "quality": quality, "subsampling": "4:4:4"},
    "webp": lambda quality: {"format": "WEBP", "quality": quality, "method": 4},
}


def _check_input_pixels(size: Size, settings: Settings) -> None:
    megapixels = size[0] * size[1] / 1e6
    if megapixels > settings.max_input_megapixels:
        raise TooLarge(
            f"The image has {size[0]}x{size[1]} = {megapixels:.1f} megapixels, the limit is "
            f"{settings.max_input_megapixels:g} (max_input_megapixels); send a smaller image."
        )


def _to_photo(image: Image.Image) -> Photo:
    notes: list[str] = []
    if getattr(image, "is_animated", False):
        notes.append("several frames: the first one taken")
    exif = _kept_exif(image, notes)
    pixels, icc_profile = _to_eight_bits(ImageOps.exif_transpose(image), notes)
    grey = pixels.mode in ("L", "LA")
    alpha = np.array(pixels.getchannel("A")) if pixels.mode in ("LA", "RGBA") else None
    if icc_profile and icc_profile[16:20] != (b"GRAY" if grey else b"RGB "):
        notes.append("colour profile dropped: made for other channels")
        icc_profile = None
    return Photo(
        rgb=np.array(pixels.convert("RGB")),
        alpha=alpha,
        grey=grey,
        icc_profile=icc_profile,
        exif=exif,
        dpi=_dpi(image),
        notes=tuple(notes),
    )


def _to_eight_bits(image: Image.Image, notes: list[str]) -> tuple[Image.Image, bytes | None]:
    """Convert to L, LA, RGB or RGBA; returns the picture and the colour profile that still fits it."""
    profile = image.info.get("icc_profile")
    transparent = "transparency" in image.info
    match image.mode:
        case "L" | "LA" | "RGB" | "RGBA" if not transparent:
            return image, profile
        case "1" | "L":
            return image.convert("LA" if transparent else "L"), profile
        case "P" | "PA" | "RGB":
            return image.convert("RGBA" if transparent or image.mode == "PA" else "RGB"), profile
        case "RGBX" | "YCbCr" | "RGBa" | "La":
            return image.convert({"RGBa": "RGBA", "La": "LA"}.get(image.mode, "RGB")), profile
        case "I;16" | "I;16L" | "I;16B":
            notes.append("16 bits a channel: reduced to 8")
            return Image.fromarray(((np.array(image).astype(np.uint32) + 128) // 257).astype(np.uint8)), profile
        case "CMYK":
            notes.append("CMYK: converted to sRGB")
            return _cmyk_to_srgb(image, profile, notes), None
    raise UnsupportedFormat(
        f"The image stores its pixels as {image.mode} ({image.format}); send 8 or 16 bits a channel, grey, RGB or CMYK."
    )


def _cmyk_to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    if profile:
        try:
            converted = ImageCms.profileToProfile(
                image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except ImageCms.PyCMSError:
            notes.append("its colour profile is unusable: converted without it")
        else:
            if converted is not None:
                return converted
    return image.convert("RGB")


def _kept_exif(image: Image.Image, notes: list[str]) -> bytes | None:
    try:
        exif = Image.Exif()
        exif.load(image.getexif().tobytes())  # a copy: the image still needs to know its orientation
        for tag in (*_STORAGE_TAGS, ExifTags.Base.Orientation):
            exif.pop(tag, None)
        return exif.tobytes() if len(exif) else None
    except Exception:  # EXIF in the wild is broken in every way; the picture matters more
        notes.append("EXIF dropped: unreadable")
        return None


def _with_dimensions(exif_bytes: bytes, size: Size) -> bytes:
    """Say the new size where EXIF states the old one."""
    exif = Image.Exif()
    exif.load(exif_bytes)
    details = exif.get_ifd(ExifTags.IFD.Exif)
    if ExifTags.Base.ExifImageWidth in details:
        details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight] = size
    return exif.tobytes()


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError):  # a resolution of 0/0, say, is as good as none
        x, y = (float(value) for value in image.info["dpi"]) if "dpi" in image.info else (0.0, 0.0)
        if 0 < x < 1e5 and 0 < y < 1e5:
            return x, y
    return None

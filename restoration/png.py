"""Pixels to a PNG file, a multiple of the speed of Pillow or OpenCV and with fewer bytes than they need at that speed.

They filter and compress row after row on one core, with zlib. Here every band of rows is filtered at once by the rule
that suits photographs and compressed by itself, on all cores, with Intel's ISA-L. Format: PNG specification, third
edition (W3C, 2025); deflated bands joined as RFC 1950 and RFC 1951 allow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from restoration import cores

Pixels = NDArray[np.uint8]

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels: grey, grey and alpha, RGB, RGBA
_AVERAGE = 3  # of the filters: of the pixels to the left and above
_BAND_BYTES = 1 << 20
_LEVEL = 1
_ADLER = 65521
_INCHES_PER_METRE = 1 / 0.0254


def encode(
    pixels: Pixels,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """Write (height, width, channels) as a PNG file: grey, grey and alpha, RGB, or RGBA, not premultiplied.

    exif: as in a JPEG file, with or without its "Exif" mark. dpi: pixels per inch, horizontally and vertically.
    """
    height, width, channels = pixels.shape
    parts = [
        b"\x89PNG\r\n\x1a\n",
        _chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)),
    ]
    if icc_profile:
        parts.append(_chunk(b"iCCP", b"ICC profile\0\0" + isal_zlib.compress(icc_profile)))
    if dpi:
        parts.append(_chunk(b"pHYs", struct.pack(">2IB", *(round(side * _INCHES_PER_METRE) for side in dpi), 1)))
    if exif:
        parts.append(_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    parts += [_chunk(b"IDAT", data) for data in _deflated(pixels)]
    return b"".join([*parts, _chunk(b"IEND", b"")])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", isal_zlib.crc32(kind + data))])


def _deflated(pixels: Pixels) -> Iterator[bytes]:
    """One zlib stream, in pieces: a header, the bands one after the other, and the checksum of them all."""
    height = len(pixels)
    rows = max(1, _BAND_BYTES // pixels[0].size)
    low, high = 1, 0  # of Adler-32, joined from the bands' as in zlib's adler32_combine
    yield b"\x78\x01"
    for data, adler, length in cores.each(lambda first: _band(pixels, first, rows), range(0, height, rows)):
        high = (high + (adler >> 16) + length * (low - 1)) % _ADLER
        low = (low + (adler & 0xFFFF) - 1) % _ADLER
        yield data
    yield struct.pack(">I", high << 16 | low)


def _band(pixels: Pixels, first: int, rows: int) -> tuple[bytes, int, int]:
    """Filter and deflate some rows; returns that, and the checksum and number of bytes before."""
    filtered = _filtered(pixels[first : first + rows], pixels[first - 1] if first else None)
    compressor: Any = isal_zlib.compressobj(_LEVEL, wbits=-isal_zlib.MAX_WBITS)
    last = first + rows >= len(pixels)
    data = compressor.compress(filtered) + compressor.flush(isal_zlib.Z_FINISH if last else isal_zlib.Z_SYNC_FLUSH)
    return data, isal_zlib.adler32(filtered), filtered.size


def _filtered(rows: Pixels, above: Pixels | None) -> Pixels:
    """Every pixel less the mean of the one to its left and the one above it, a filter's mark before each row."""
    count, width, channels = rows.shape
    left, up = np.zeros_like(rows), np.zeros_like(rows)
    left[:, 1:], up[1:] = rows[:, :-1], rows[:-1]
    if above is not None:
        up[0] = above
    filtered = np.empty((count, 1 + width * channels), np.uint8)
    filtered[:, 0] = _AVERAGE
    # The mean rounded down, without room for the sum: what both have, and half of what one of them has.
    mean = (left & up) + ((left ^ up) >> 1)
    np.subtract(rows.reshape(count, -1), mean.reshape(count, -1), out=filtered[:, 1:])
    return filtered

"""Bytes made to harm: each must end as one `InputError`, fast, and without decoding what is over a limit."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from restoration.errors import InputError, TooLarge, UnreadableImage, UnsupportedFormat
from restoration.images import decode
from restoration.settings import Settings

SETTINGS = Settings()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def saved(file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format=file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("width", "height"), [(16_384, 16_384), (100_000, 1_000), (2**31 - 1, 2**31 - 1)])
def test_a_png_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    bomb = chunk(b"IDAT", zlib.compress(bytes(1_000_000), 9) * 10)
    with pytest.raises(TooLarge):
        decode(png(width, height, bomb), SETTINGS)


def test_a_tiff_bomb_is_refused_by_its_header() -> None:
    entries = [(256, 4, 1, 60_000), (257, 4, 1, 60_000), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8),
               (277, 3, 1, 1), (278, 4, 1, 60_000), (279, 4, 1, 10)]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    with pytest.raises(TooLarge, match="max_input_megapixels"):
        decode(b"II*\x00" + struct.pack("<I", 8) + directory + bytes(4), SETTINGS)


def test_a_text_chunk_bomb_is_refused() -> None:
    text = chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(200_000_000), 9))
    pixels = chunk(b"IDAT", zlib.compress(bytes(4 * 13)))
    with pytest.raises(UnreadableImage):
        decode(png(4, 4, text, pixels), SETTINGS)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "HEIF"])
def test_a_truncated_file_is_refused(file_format: str) -> None:
    data = saved(file_format)
    with pytest.raises((UnreadableImage, UnsupportedFormat)):
        decode(data[: len(data) // 2], SETTINGS)


def test_a_polyglot_is_only_what_its_first_bytes_say() -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"
    with pytest.raises(UnsupportedFormat):
        decode(script + saved("PNG"), SETTINGS)


def test_a_path_inside_the_bytes_is_never_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(saved("PNG"))
    for text in (str(secret), f"file://{secret}", f"<svg><image href='file://{secret}'/></svg>"):
        with pytest.raises(UnsupportedFormat):
            decode(text.encode(), SETTINGS)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    file_format=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "HEIF"]),
    edits=st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), min_size=1, max_size=20),
    keep=st.floats(0, 1),
)
def test_mutated_files_decode_or_fail_cleanly(file_format: str, edits: list[tuple[int, int]], keep: float) -> None:
    data = bytearray(saved(file_format, exif=Image.Exif().tobytes()) if file_format != "BMP" else saved(file_format))
    for position, value in edits:
        data[position % len(data)] = value
    with contextlib.suppress(InputError):  # anything else that is raised fails the test
        photo = decode(bytes(data[: max(1, int(len(data) * keep))]), SETTINGS)
        assert photo.rgb.dtype == np.uint8
        assert photo.rgb.shape[2] == 3


@given(st.binary(max_size=2000))
def test_random_bytes_are_no_image(data: bytes) -> None:
    with pytest.raises(InputError):
        decode(data, SETTINGS)

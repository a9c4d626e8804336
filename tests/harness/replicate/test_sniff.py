"""An input's type comes from its bytes: clients upload photos as octet-stream under names without an extension."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from harness.replicate.fetch import SNIFF_BYTES, sniff


@pytest.mark.parametrize(
    ("format", "media_type", "suffix"),
    [
        ("JPEG", "image/jpeg", ".jpg"),
        ("PNG", "image/png", ".png"),
        ("WEBP", "image/webp", ".webp"),
        ("TIFF", "image/tiff", ".tiff"),
        ("BMP", "image/bmp", ".bmp"),
        ("GIF", "image/gif", ".gif"),
    ],
)
def test_real_files_are_recognised(format: str, media_type: str, suffix: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format)
    kind = sniff(file.getvalue()[:SNIFF_BYTES])
    assert kind is not None
    assert (kind.media_type, kind.suffix) == (media_type, suffix)


@pytest.mark.parametrize("brand", [b"heic", b"avif"])
def test_brands_of_the_iso_container_are_told_apart(brand: bytes) -> None:
    kind = sniff(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0")
    assert kind is not None
    assert kind.media_type == f"image/{brand.decode()}"


@pytest.mark.parametrize("head", [b"", b"RIFF1234WAVE", b"\0\0\0\x18ftypmp42", b"<svg", b"%PDF-1.7"])
def test_other_files_are_not_called_images(head: bytes) -> None:
    assert sniff(head) is None

"""Fetching the file behind an input URL, which a stranger may have written.

Bytes, total time and redirects are limited, only http and https are spoken, no credentials or proxies are taken from
the environment, and every hop's address is checked (see addresses.py).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urljoin

import httpx

from harness.errors import FetchFailed
from harness.replicate.addresses import AddressRules, CheckedTransport


class Sink(Protocol):
    """Where fetched bytes go, such as an open file."""

    def write(self, data: bytes, /) -> object:
        """Take the next piece."""
        ...


@dataclass(frozen=True)
class FetchLimits:
    """Bounds on one input URL, its redirects included."""

    max_bytes: int = 100 * 1024 * 1024
    total_s: float = 60.0
    connect_s: float = 10.0
    redirects: int = 5


@dataclass(frozen=True)
class FileType:
    """A kind of file as its name and its content type tell it."""

    media_type: str
    suffix: str


_JPEG = FileType("image/jpeg", ".jpg")
_PNG = FileType("image/png", ".png")
_BMP = FileType("image/bmp", ".bmp")
_WEBP = FileType("image/webp", ".webp")
_TIFF = FileType("image/tiff", ".tiff")
_GIF = FileType("image/gif", ".gif")
_HEIC = FileType("image/heic", ".heic")
_AVIF = FileType("image/avif", ".avif")

_MAGIC = {
    b"\xff\xd8\xff": _JPEG,
    b"\x89PNG\r\n\x1a\n": _PNG,
    b"BM": _BMP,
    b"II*\0": _TIFF,
    b"MM\0*": _TIFF,
    b"II+\0": _TIFF,  # BigTIFF
    b"MM\0+": _TIFF,
    b"GIF8": _GIF,
}
_BRANDS = {b"heic": _HEIC, b"heix": _HEIC, b"mif1": _HEIC, b"msf1": _HEIC, b"avif": _AVIF, b"avis": _AVIF}
SNIFF_BYTES = 16  # how much of a file `sniff` looks at


def sniff(head: bytes) -> FileType | None:
    """The image type that a file's first SNIFF_BYTES bytes announce, whatever its name says; None for anything else."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _WEBP
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


async def fetch(url: str, into: Sink, *, rules: AddressRules, limits: FetchLimits | None = None) -> int:
    """Write the file at `url` to `into` and return its size in bytes.

    Raises FetchFailed (its message is for the caller, and holds no more of the URL than its host) and AddressRefused;
    `into` may then hold a part.
    """
    limits = limits or FetchLimits()
    timeout = httpx.Timeout(limits.total_s, connect=limits.connect_s)
    try:
        async with (
            asyncio.timeout(limits.total_s),
            httpx.AsyncClient(transport=CheckedTransport(rules), timeout=timeout, trust_env=False) as client,
        ):
            return await _follow(client, url, into, limits)
    except TimeoutError:
        raise FetchFailed(f"The input's URL took longer than {limits.total_s:g} s; use a faster source.") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FetchFailed(f"The input's URL cannot be fetched: {error or type(error).__name__}") from error


async def _follow(client: httpx.AsyncClient, url: str, into: Sink, limits: FetchLimits) -> int:
    for _ in range(limits.redirects + 1):
        async with client.stream("GET", _checked(url), headers={"Accept-Encoding": "identity"}) as response:
            if not response.has_redirect_location:
                return await _save(response, into, limits.max_bytes)
            url = urljoin(url, response.headers["location"])
    raise FetchFailed(f"The input's URL redirects more than {limits.redirects} times; use the final URL.")


def _checked(url: str) -> httpx.URL:
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise FetchFailed(f"An input's URL must be http:// or https:// with a host, not {parsed.scheme or 'bare'}.")
    if parsed.userinfo:
        raise FetchFailed("An input's URL must not carry a user name or password; use a signed URL or upload the file.")
    return parsed


async def _save(response: httpx.Response, into: Sink, max_bytes: int) -> int:
    host = response.url.host
    if not response.is_success:
        raise FetchFailed(f"{host} answered {response.status_code} for the input's URL; expected the file itself.")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise FetchFailed(f"{host} sent a compressed answer that was not asked for; serve the file as it is.")
    if int(response.headers.get("content-length", 0)) > max_bytes:
        raise _too_large(max_bytes)
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        into.write(chunk)
    return size


def _too_large(max_bytes: int) -> FetchFailed:
    return FetchFailed(f"The file at the input's URL is larger than the limit of {max_bytes:,} bytes.")

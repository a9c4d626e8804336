"""Inputs on their way to a model server: long data URLs become files when accepted, every file a data URL when run.

The model server never fetches anything: it may be a container that reaches neither this host nor the internet.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import mimetypes
import re
from typing import Any, Final
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from harness.errors import FetchFailed
from harness.replicate import files
from harness.replicate.addresses import AddressRules
from harness.replicate.database import Database
from harness.replicate.fetch import SNIFF_BYTES, FetchLimits, fetch, sniff
from harness.replicate.files import Blobs, StoredFile
from harness.replicate.settings import Settings
from harness.replicate.tables import JsonValue
from harness.replicate.views import FILE

_DATA: Final = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?P<parameters>(?:;[^;,]*)*),", re.ASCII)
_OWN: Final = re.compile(r"/(?:v1/)*(?:files|delivery)/(?P<id>[0-9a-z]{26})(?:/[^/]*)?")


class Inputs:
    """Turns what clients send into what is stored, and what is stored into what a model server takes."""

    def __init__(self, database: Database, blobs: Blobs, rules: AddressRules, settings: Settings) -> None:
        self._database = database
        self._blobs = blobs
        self._rules = rules
        self._settings = settings

    async def store(self, value: dict[str, Any], prediction_id: str) -> tuple[dict[str, Any], list[StoredFile]]:
        """Return the input with references in place of long data URLs, and the files behind them."""
        kept: list[StoredFile] = []

        async def keep(text: str) -> JsonValue:
            if len(text) <= self._settings.inline_input or not text.startswith("data:"):
                return text
            file = await asyncio.to_thread(self._keep_data_url, text, prediction_id)
            kept.append(file)
            return file.reference

        return {name: await _mapped(item, keep) for name, item in value.items()}, kept

    def _keep_data_url(self, url: str, prediction_id: str) -> StoredFile:
        data, media_type = decode_data_url(url)
        contents = self._blobs.put(data)
        return files.named(contents, kind="input", stem="input", content_type=media_type, prediction_id=prediction_id)

    async def resolve(self, value: dict[str, Any], uris: frozenset[str]) -> dict[str, Any]:
        """Return the input for a model server: every file among the inputs named in `uris` as a data URL.

        Raises FetchFailed when one cannot be had, or all together are too large for Cog.
        """
        sizes: list[int] = []

        async def send(item: JsonValue) -> JsonValue:
            found = await self._file(item)
            if found is None:
                return item
            data, media_type = found
            sizes.append(len(data))
            if sum(sizes) > self._settings.max_sent:
                raise FetchFailed(
                    f"The input files exceed {self._settings.max_sent:,} bytes together; use smaller ones."
                )
            return await asyncio.to_thread(_data_url, data, media_type)

        return {name: await _mapped(item, send) if name in uris else item for name, item in value.items()}

    async def _file(self, item: JsonValue) -> tuple[bytes, str] | None:
        match item:
            case {"$file": {"sha256": str(sha256), "content_type": str(media_type)}}:
                return await self._stored(sha256), media_type
            case str() if item.startswith(("http://", "https://")):
                own = await self._own(item)
                return await self._fetched(item) if own is None else (await self._stored(own.sha256), own.content_type)
        return None

    async def _stored(self, sha256: str) -> bytes:
        return await asyncio.to_thread(self._blobs.path(sha256).read_bytes)

    async def _own(self, url: str) -> StoredFile | None:
        """Return the file that a URL of this very server names, whatever host name the client knows it by."""
        match = _OWN.fullmatch(urlsplit(url).path)
        if match is None:
            return None
        return await self._database.read(lambda c: files.get(c, match["id"]))

    async def _fetched(self, url: str) -> tuple[bytes, str]:
        limits = FetchLimits(
            max_bytes=min(self._settings.fetch_bytes, self._settings.max_sent),
            total_s=self._settings.fetch_s,
            redirects=self._settings.fetch_redirects,
        )
        into = io.BytesIO()
        await fetch(url, into, rules=self._rules, limits=limits)
        seen = sniff(into.getvalue()[:SNIFF_BYTES])
        guessed = mimetypes.guess_type(urlsplit(url).path)[0]
        return into.getvalue(), seen.media_type if seen else guessed or "application/octet-stream"


async def _mapped(value: JsonValue, change: JsonValue) -> JsonValue:
    """Return `value` with `change` applied to strings and file references, at any depth of lists."""
    if isinstance(value, list):
        return [await _mapped(item, change) for item in value]
    if isinstance(value, str) or (isinstance(value, dict) and FILE in value):
        return await change(value)
    return value


def decode_data_url(url: str) -> tuple[bytes, str]:
    """Return the bytes and the media type of a data URL; ValueError when it is malformed."""
    match = _DATA.match(url)
    if match is None:
        raise ValueError("expected data:TYPE;base64,DATA")
    media_type, payload = match["type"] or "text/plain", url[match.end() :]
    if not match["parameters"].endswith(";base64"):
        return unquote_to_bytes(payload), media_type
    try:
        # URLs may carry percent-encoding or line breaks inside base64
        text = unquote(payload) if "%" in payload else payload
        return base64.b64decode("".join(text.split()), validate=True), media_type
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


def _data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"

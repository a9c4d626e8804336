"""Outputs: the files a model server answered with are stored, then shown as URLs or data URLs, as suits the client."""

from __future__ import annotations

import asyncio
import base64
import mimetypes
import shutil
from dataclasses import replace
from pathlib import Path

from harness.model_server.files import read_output
from harness.replicate import files
from harness.replicate.files import Blobs, StoredFile
from harness.replicate.settings import Settings
from harness.replicate.tables import JsonValue

_PY2 = ("Replicate/Python", "AsyncReplicate/Python", "_ModuleClient/Python", "_AsyncModuleClient/Python")
_SDKS = ("replicate-python/", "replicate-javascript/", *_PY2)


class Outputs:
    """Stores files of outputs and decides what a client sees of them."""

    def __init__(self, blobs: Blobs, settings: Settings, received: Path | None = None) -> None:
        self._blobs = blobs
        self._received = received  # where model servers on this machine put files
        self._settings = settings

    async def keep(self, value: JsonValue, prediction_id: str) -> tuple[JsonValue, list[StoredFile]]:
        """Return an output with references in place of data URLs, and the files behind them, safe on the disk."""
        return await asyncio.to_thread(self._keep, value, prediction_id)

    def _keep(self, value: JsonValue, prediction_id: str) -> tuple[JsonValue, list[StoredFile]]:
        kept: list[StoredFile] = []

        def stored(item: JsonValue) -> JsonValue:
            match item:
                case str() if self._is_file(item):
                    stem = f"out-{len(kept)}" if isinstance(value, list) else "out"
                    kept.append(self._store(item, stem, prediction_id))
                    return kept[-1].reference
                case list():
                    return [stored(entry) for entry in item]
                case dict():
                    return {key: stored(entry) for key, entry in item.items()}
            return item

        try:
            return stored(value), kept
        finally:
            if self._received is not None:
                shutil.rmtree(self._received / prediction_id, ignore_errors=True)

    def _is_file(self, text: str) -> bool:
        return text.startswith("data:") or (self._received is not None and text.startswith(self._received.as_uri()))

    def _store(self, text: str, stem: str, prediction_id: str) -> StoredFile:
        data, suffix = read_output(text, self._received)
        media_type = mimetypes.guess_type(f"out{suffix}")[0]
        contents = self._blobs.put(data)
        named = files.named(contents, kind="output", stem=stem, content_type=media_type, prediction_id=prediction_id)
        return named if "." in named.name else replace(named, name=stem + suffix)

    def inline_for(self, user_agent: str, *, waits: bool) -> bool:
        """Whether a prediction created so gives data URLs to its SDK, for as long as it exists."""
        if self._settings.outputs == "auto":
            return waits and is_sdk(user_agent)
        return self._settings.outputs == "data"

    def applied(self, *, inline: bool, user_agent: str) -> bool:
        """Whether this reader of a prediction made with `inline` sees data URLs."""
        return inline and (self._settings.outputs == "data" or is_sdk(user_agent))

    async def inline(self, value: JsonValue) -> JsonValue:
        """Return a stored output with data URLs in place of references, except to large files."""
        return await asyncio.to_thread(self._inline, value)

    def _inline(self, value: JsonValue) -> JsonValue:
        match value:
            case {"$file": {"sha256": str(sha256), "content_type": str(media_type), "size": int(size)}}:
                limit = self._settings.inline_output if self._settings.outputs == "auto" else size
                return value if size > limit else data_url(self._blobs.path(sha256), media_type)
            case dict():
                return {key: self._inline(item) for key, item in value.items()}
            case list():
                return [self._inline(item) for item in value]
        return value


def is_sdk(user_agent: str) -> bool:
    """Whether Replicate's own Python or JavaScript library asks, whose FileOutput needs https: or data: strings."""
    return user_agent.startswith(_SDKS)


def data_url(path: Path, media_type: str) -> str:
    """Return a file's contents as a data URL."""
    return f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode()}"

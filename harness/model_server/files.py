"""Files on their way into and out of a model server: data URLs, and file URLs that a `Receiver` made."""

from __future__ import annotations

import base64
import binascii
import mimetypes
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from harness.errors import ModelServerError


def data_url(path: Path) -> str:
    """Return a file as a data URL, its type taken from the name. Raises OSError when it cannot be read."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def read_output(value: str, received: Path | None = None) -> tuple[bytes, str]:
    """Return the bytes of an output file and its extension with the dot ("" when unknown).

    value: a data URL, or a file URL below `received`, the directory of the `Receiver` that took it.

    Raises:
        ModelServerError: it is neither, or damaged.
    """
    if value.startswith("data:"):
        return _decoded(value)
    if received is not None and value.startswith("file:"):
        path = Path(url2pathname(urlsplit(value).path)).resolve()
        if path.is_relative_to(received.resolve()):
            return path.read_bytes(), path.suffix
    raise ModelServerError(f"The model's output is no file that was sent to us: {value[:80]!r}.")


def _decoded(url: str) -> tuple[bytes, str]:
    header, comma, body = url.removeprefix("data:").partition(",")
    kind, *parameters = header.split(";")
    try:
        if not comma:
            raise ValueError("no comma")
        content = base64.b64decode(body, validate=True) if "base64" in parameters else unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        raise ModelServerError(f"The model's output is a damaged data URL ({error}).") from error
    return content, mimetypes.guess_extension(kind) or ""

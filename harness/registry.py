"""An image registry, read over its HTTP API: which image a tag stands for, and the labels of an image.

Everything read is checked against its digest, so that a version is what its id says.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

import httpx

from harness.answers import body_within, reason
from harness.errors import RegistryFailed

TIMEOUT_S: Final = 10.0
MAX_BYTES: Final = 8 << 20
"""Of a manifest or an image's configuration, which holds the labels."""

_LOOPBACK: Final = re.compile(r"(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:\d+)?")
_INDEXES: Final = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
)
_MANIFESTS: Final = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)


@dataclass(frozen=True)
class Image:
    """An image in a registry: `digest` ("sha256:..." of its manifest) and its labels."""

    digest: str
    labels: dict[str, str]


def is_loopback(host: str) -> bool:
    """Whether a registry ("HOST:PORT") is on this machine: it then needs neither TLS nor a login."""
    return _LOOPBACK.fullmatch(host) is not None


class Registry:
    """A registry that needs no login, such as one on this machine; close it after use."""

    def __init__(self, host: str) -> None:
        """`host`: as in an image's name, like 127.0.0.1:5055."""
        scheme = "http" if is_loopback(host) else "https"
        self._client = httpx.Client(base_url=f"{scheme}://{host}", timeout=TIMEOUT_S, trust_env=scheme == "https")
        self._host = host

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def check(self) -> None:
        """Raise RegistryFailed unless a registry answers."""
        self._get("/v2/")

    def digest(self, repository: str, tag: str = "latest") -> str | None:
        """Return the digest behind a tag; None when there is no such tag. Raises RegistryFailed."""
        found = self._get(f"/v2/{repository}/manifests/{tag}", (*_MANIFESTS, *_INDEXES))
        return None if found is None else _digest(found)

    def image(self, repository: str, digest: str) -> Image:
        """Return the image with this digest; an index stands for its linux/amd64 image. Raises RegistryFailed."""
        manifest = json.loads(self._content(repository, "manifests", digest))
        if "manifests" in manifest:
            manifest = json.loads(self._content(repository, "manifests", _amd64(manifest)))
        config = json.loads(self._content(repository, "blobs", manifest["config"]["digest"]))
        return Image(digest, config.get("config", {}).get("Labels") or {})

    def _content(self, repository: str, kind: str, digest: str) -> bytes:
        accept = (*_MANIFESTS, *_INDEXES) if kind == "manifests" else ("*/*",)
        found = self._get(f"/v2/{repository}/{kind}/{digest}", accept)
        if found is None:
            raise RegistryFailed(f"The registry {self._host} has no {repository}@{digest}; push the image again.")
        if _digest(found) != digest:
            raise RegistryFailed(f"The registry {self._host} gave other content than {digest}; push the image again.")
        return found

    def _get(self, path: str, accept: tuple[str, ...] = ()) -> bytes | None:
        """Return a body; None for 404."""
        try:
            return self._read(path, accept)
        except httpx.HTTPError as error:
            raise RegistryFailed(f"The registry {self._host} does not answer ({reason(error)}).") from error

    def _read(self, path: str, accept: tuple[str, ...]) -> bytes | None:
        with self._client.stream("GET", path, headers={"Accept": ", ".join(accept)}) as answer:
            if answer.status_code == 404:
                return None
            if answer.status_code != 200:
                raise RegistryFailed(f"The registry {self._host} answered {answer.status_code} to {path}.")
            body = body_within(answer, MAX_BYTES)
        if body is None:
            raise RegistryFailed(f"{path} of the registry {self._host} exceeds {MAX_BYTES:,} bytes.")
        return body


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _amd64(index: dict[str, Any]) -> str:
    for entry in index["manifests"]:
        if entry.get("platform", {}).get("architecture") == "amd64":
            return str(entry["digest"])
    raise RegistryFailed("The pushed image has no linux/amd64 variant, the only one that Replicate runs.")

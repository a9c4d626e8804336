"""HTTPS on this machine: a certificate authority of its own, which clients are told to trust.

With it outputs have https: URLs, as on the hosted service, and the SDKs make their file objects of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import certifi
import trustme

_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths: the authority's certificate, the same among the usual ones, and what the server shows and signs with."""

    authority: Path
    bundle: Path
    server: Path
    key: Path


def certificates(folder: Path, host: str) -> Certificates:
    """Return certificates for a server on this machine, or on `host`; the authority is made once and kept."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(*(folder / name for name in ("authority.pem", "bundle.pem", "server.pem", "server.key")))
    authority = _authority(made.authority, folder / "authority.key")
    shown = authority.issue_cert(*dict.fromkeys((*_NAMES, host)))
    _write_private(made.key, shown.private_key_pem.bytes())
    made.server.write_bytes(b"".join(pem.bytes() for pem in shown.cert_chain_pems))
    made.bundle.write_bytes(Path(certifi.where()).read_bytes() + authority.cert_pem.bytes())
    return made


def _authority(certificate: Path, key: Path) -> trustme.CA:
    if certificate.exists() and key.exists():
        return trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())
    authority = trustme.CA(organization_name="Local Replicate")
    _write_private(key, authority.private_key_pem.bytes())
    certificate.write_bytes(authority.cert_pem.bytes())
    return authority


def _write_private(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)

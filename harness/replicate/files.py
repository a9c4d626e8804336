"""Files: contents stored once under their SHA-256, rows that give them a name, a type and an unguessable id.

A file exists only after its contents are complete on the disk: temporary name, fsync, rename, then the row.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, delete, insert, select

from harness.replicate import ids
from harness.replicate.fetch import SNIFF_BYTES, sniff
from harness.replicate.tables import files
from harness.replicate.views import FILE

NEVER_S = 100 * 365 * 86_400.0  # clients want a date even where nothing expires


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a file, and where it is."""

    path: Path
    size: int
    sha256: str
    md5: str

    @property
    def head(self) -> bytes:
        """The first bytes, enough to tell its type."""
        with self.path.open("rb") as file:
            return file.read(SNIFF_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One row of `files`; `id` is the capability to read it."""

    id: str
    kind: str
    name: str
    content_type: str
    size: int
    sha256: str
    md5: str
    created_at: str
    expires_at: str
    prediction_id: str | None = None
    metadata: dict[str, Any] | None = None

    @property
    def reference(self) -> dict[str, Any]:
        """What stands for this file inside a stored input or output."""
        own = ("id", "name", "content_type", "size", "sha256")
        return {FILE: {key: getattr(self, key) for key in own}}


class Blobs:
    """The folder of contents, two levels deep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incoming = folder / "incoming"

    def open(self) -> None:
        """Make the folder, and drop what an earlier process did not finish writing."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        for unfinished in self._incoming.iterdir():
            unfinished.unlink()

    def path(self, sha256: str) -> Path:
        """Where contents with this hash are."""
        return self.folder / sha256[:2] / sha256

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """Collect new contents; nothing is left of them unless `keep` was called."""
        temporary = self._incoming / secrets.token_hex(16)
        try:
            with temporary.open("xb") as file:
                yield Writing(self, temporary, file)
        finally:
            temporary.unlink(missing_ok=True)

    def put(self, data: bytes) -> Contents:
        """Store `data`."""
        with self.writing() as writing:
            writing.write(data)
            return writing.keep()


class Writing:
    """New contents on their way to the disk; a binary stream to write to."""

    def __init__(self, blobs: Blobs, temporary: Path, file: IO[bytes]) -> None:
        self._blobs = blobs
        self._temporary = temporary
        self._file = file
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)  # an etag that clients know, no protection
        self.size = 0

    def write(self, chunk: bytes) -> int:
        """Append to the contents."""
        self._sha256.update(chunk)
        self._md5.update(chunk)
        self.size += len(chunk)
        return self._file.write(chunk)

    def keep(self) -> Contents:
        """Move the contents to their place, durably, unless they are there already."""
        self._file.flush()
        target = self._blobs.path(self._sha256.hexdigest())
        if not target.exists():
            os.fsync(self._file.fileno())
            target.parent.mkdir(exist_ok=True)
            self._temporary.rename(target)
            _sync_directory(target.parent)
        return Contents(target, self.size, self._sha256.hexdigest(), self._md5.hexdigest())


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def named(
    contents: Contents, *, kind: str, stem: str, content_type: str | None = None, prediction_id: str | None = None
) -> StoredFile:
    """Describe contents as a file `stem` plus the suffix of the type that its first bytes tell."""
    seen = sniff(contents.head)
    media_type = seen.media_type if seen else content_type or "application/octet-stream"
    return StoredFile(
        id=ids.new_id(),
        kind=kind,
        name=stem + (seen.suffix if seen else ""),
        content_type=media_type,
        size=contents.size,
        sha256=contents.sha256,
        md5=contents.md5,
        created_at=ids.now(),
        expires_at=ids.later(NEVER_S),
        prediction_id=prediction_id,
    )


def insert_all(connection: Connection, rows: Sequence[StoredFile]) -> None:
    """Add rows for files whose contents are on the disk."""
    if rows:
        connection.execute(insert(files), [asdict(row) for row in rows])


def get(connection: Connection, file_id: str, kind: str | None = None) -> StoredFile | None:
    """Return one file, or None."""
    query = select(*_COLUMNS).where(files.c.id == file_id)
    row = connection.execute(query if kind is None else query.where(files.c.kind == kind)).first()
    return None if row is None else StoredFile(**row._mapping)


def uploads(connection: Connection, limit: int, before: tuple[str, str] | None) -> list[StoredFile]:
    """Return uploaded files, newest first, those older than `before` (created_at, id) if given."""
    query = select(*_COLUMNS).where(files.c.kind == "upload")
    if before is not None:
        created, file_id = before
        older = (files.c.created_at < created) | ((files.c.created_at == created) & (files.c.id < file_id))
        query = query.where(older)
    rows = connection.execute(query.order_by(files.c.created_at.desc(), files.c.id.desc()).limit(limit))
    return [StoredFile(**row._mapping) for row in rows]


def remove(connection: Connection, file_ids: Sequence[str]) -> list[str]:
    """Remove rows; returns the hashes of contents that no other row needs."""
    hashes = set(connection.execute(select(files.c.sha256).where(files.c.id.in_(file_ids))).scalars())
    connection.execute(delete(files).where(files.c.id.in_(file_ids)))
    needed = set(connection.execute(select(files.c.sha256).where(files.c.sha256.in_(hashes))).scalars())
    return sorted(hashes - needed)


_COLUMNS = [files.c[field.name] for field in fields(StoredFile)]

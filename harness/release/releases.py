"""`releases.toml`: what was pushed. The gate reads the live version in it offline, a rollback where it can go."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import tomli_w

from harness.errors import UsageError

FILE: Final = Path("releases.toml")

_HEADER: Final = "# Written by `harness push`; commit it. The newest release comes last.\n\n"


@dataclass(frozen=True, kw_only=True)
class Release:
    """One pushed version.

    model: "owner/name". version: 64 hexadecimal digits, those of `digest` ("sha256:..."). pushed_at: ISO 8601, UTC.
    git_commit: with "+changes" when files differed from it; "" outside git. schema: the OpenAPI document.
    weights: sha256 of each weights file, by name. gate: the gate's outcome in a sentence. checks: what each of its
    checks said. figures: what it measured. live: whether callers should use it; a rollback changes that.
    """

    model: str
    version: str
    digest: str
    pushed_at: str
    git_commit: str = ""
    schema: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    gate: str = ""
    checks: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    live: bool = True

    @property
    def schema_sha256(self) -> str:
        """Hash of the schema, however its keys are ordered."""
        return hashlib.sha256(_compact(self.schema).encode()).hexdigest()


def read(path: Path = FILE) -> list[Release]:
    """Return the releases, oldest first; none where there is no file. Raises UsageError when it cannot be read."""
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("release", [])
        return [_release(row) for row in rows]
    except FileNotFoundError:
        return []
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError, KeyError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); restore it from git.") from error


def live(model: str | None = None, path: Path = FILE) -> Release | None:
    """Return the release that callers use: of `model`, else of whichever was pushed last; None without any."""
    found = [release for release in read(path) if release.live and model in (None, release.model)]
    return found[-1] if found else None


def record(release: Release, path: Path = FILE) -> Release:
    """Add a release and make it the live one of its model; returns what is recorded.

    A version that is recorded already keeps its place, its first date and commit, the gate that let it through, and its
    figures if it has any: pushing the same image again makes no other release of it.
    """
    known = read(path)
    first = next((old for old in known if (old.model, old.version) == (release.model, release.version)), None)
    kept = replace(first, figures=first.figures or release.figures) if first else release
    make_live(kept, [kept if old is first else old for old in known] if first else [*known, kept], path)
    return replace(kept, live=True)


def make_live(chosen: Release, releases: Sequence[Release], path: Path = FILE) -> None:
    """Write `releases`, of which `chosen` is the live one of its model; a reader sees the old file or the new one."""
    rows = [
        _row(release, live=release.version == chosen.version if release.model == chosen.model else release.live)
        for release in releases
    ]
    _replace(path, _HEADER + tomli_w.dumps({"release": rows}))


def find(version: str, releases: Sequence[Release]) -> Release:
    """Return the release whose version begins so. Raises UsageError unless there is exactly one."""
    found = [release for release in releases if release.version.startswith(version)] if version else []
    if len(found) == 1:
        return found[0]
    known = ", ".join(release.version[:12] for release in releases) or "none"
    problem = "more than one release" if found else "no release"
    raise UsageError(f"{problem.capitalize()} has a version that begins with {version!r}; releases: {known}.")


def _row(release: Release, *, live: bool) -> dict[str, Any]:
    row = asdict(release) | {"live": live, "schema": _compact(release.schema), "schema_sha256": release.schema_sha256}
    return {name: value for name, value in row.items() if value not in ({}, "")}


def _release(row: Mapping[str, Any]) -> Release:
    values = dict(row)
    expected = values.pop("schema_sha256")
    release = Release(**values | {"schema": json.loads(values["schema"])})
    if release.schema_sha256 != expected:
        raise ValueError(f"the schema of {release.version[:12]} does not have the hash that is written beside it")
    return release


def _compact(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, sort_keys=True, separators=(",", ":"))


def _replace(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise

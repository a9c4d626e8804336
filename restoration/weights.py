"""The weights directory: checkpoint files, and `manifest.toml`, the only list of what they must be.

    [files."GFPGANv1.4.pth"]
    sha256 = "..."                 # 64 hexadecimal digits
    licence = "Apache-2.0"         # SPDX identifier
    licence_note = "..."           # optional
    bytes = 348632874              # optional: where absent, the sha256 alone decides
    url = "https://..."            # optional: absent for files that are made, not downloaded
    needed_for = ["default"]       # optional

A file is hashed once: `.verified.json` beside it remembers the sha256, with its size and modification time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from restoration.errors import WeightsCorrupt, WeightsError, WeightsMissing

MANIFEST = "manifest.toml"
_MEMORY = ".verified.json"

# No separator, no leading dot, a known ending: a name cannot leave the directory, nor hit a file that is no checkpoint.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(pth|safetensors)")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightFile:
    """One entry of the manifest.

    `size_bytes` is the manifest's `bytes`, None where nobody states it. `url` is None for a file that is made, not
    downloaded. `needed_for` holds "default", versions, or the configuration that asks for the file.
    """

    name: str
    sha256: str
    licence: str
    licence_note: str = ""
    size_bytes: int | None = None
    url: str | None = None
    needed_for: tuple[str, ...] = ()

    @property
    def remedy(self) -> str:
        """What a person does when the file is missing or wrong, as the second half of a sentence."""
        if self.url is None:
            return "run the command that made this directory again"
        return "run `make weights`" if "default" in self.needed_for else f"run `harness weights fetch {self.name}`"


class Weights:
    """A weights directory: names from its manifest to verified files.

    Raises `WeightsMissing` without a manifest, and `WeightsError`, naming file and key, for a bad one.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.files: Mapping[str, WeightFile] = MappingProxyType(_read_manifest(self.directory / MANIFEST))

    def path(self, name: str) -> Path:
        """The file that the manifest calls `name`, its size checked always and its sha256 once per file.

        Raises `WeightsMissing`, `WeightsCorrupt`, or `WeightsError` for a name that is not in the manifest.
        """
        file, path = self.file(name), self.directory / name
        if self._memory().get(name) != _mark(_check_size(file, path), file.sha256):
            return self.verify(name)
        log.info("%s: sha256 %s, remembered", name, file.sha256)
        return path

    def verify(self, name: str) -> Path:
        """Like `path`, but always hashes the file."""
        file, path = self.file(name), self.directory / name
        # Taken before hashing: a change while hashing leaves another time behind, and so is never remembered as good.
        status = _check(file, path)
        self._remember(name, _mark(status, file.sha256))
        log.info("%s: sha256 %s, hashed", name, file.sha256)
        return path

    def adopt(self, name: str, candidate: Path) -> Path:
        """Verify `candidate`, a file in this directory, and rename it to `name`: all of it is on the disk, or nothing.

        Raises as `verify` does; `candidate` is then left as it was.
        """
        file, path = self.file(name), self.directory / name
        status = _check(file, candidate)
        _sync(candidate)
        candidate.replace(path)
        _sync(self.directory)
        self._remember(name, _mark(status, file.sha256))
        log.info("%s: sha256 %s, hashed", name, file.sha256)
        return path

    def file(self, name: str) -> WeightFile:
        """The manifest's entry for `name`; `WeightsError` where there is none."""
        try:
            return self.files[name]
        except KeyError:
            listed = ", ".join(self.files) or "nothing"
            raise WeightsError(
                f"{name!r} is not a weights file of {self.directory}: its manifest lists {listed}"
            ) from None

    def _memory(self) -> dict[str, object]:
        try:
            memory = json.loads((self.directory / _MEMORY).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}  # it only saves time: without it the files are hashed again
        return memory if isinstance(memory, dict) else {}

    def _remember(self, name: str, mark: object) -> None:
        text = json.dumps({**self._memory(), name: mark}, indent=2)
        try:
            write_atomically(self.directory / _MEMORY, text)
        except OSError as error:
            log.info("%s is not remembered as verified (%s): it will be hashed again", name, error.strerror)


def write_manifest(directory: Path, files: Iterable[WeightFile]) -> None:
    """Write `directory`'s manifest, for those who make a weights directory rather than download one."""
    write_atomically(directory / MANIFEST, "\n".join(["[files]\n", *map(_as_toml, files)]))


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step, so that no reader ever sees half of it. Raises `OSError`."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            os.fchmod(handle, 0o644)  # mkstemp makes it private; the container's user reads it too
            stream.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _check(file: WeightFile, path: Path) -> os.stat_result:
    """Check size and sha256 of the file at `path`; returns the status it had before it was read."""
    status = _check_size(file, path)
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): make it readable") from error
    if found != file.sha256:
        raise WeightsCorrupt(f"{path} has sha256 {found}, expected {file.sha256}: {file.remedy}")
    return status


def _check_size(file: WeightFile, path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise WeightsMissing(f"{file.name} is not in {path.parent}: {file.remedy}") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): make it readable") from error
    if not stat.S_ISREG(status.st_mode):
        raise WeightsCorrupt(f"{path} is not a regular file: remove it and {file.remedy}")
    if file.size_bytes not in (None, status.st_size):
        raise WeightsCorrupt(f"{path} has {status.st_size} bytes, expected {file.size_bytes}: {file.remedy}")
    return status


def _mark(status: os.stat_result, sha256: str) -> dict[str, object]:
    return {"sha256": sha256, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_manifest(path: Path) -> dict[str, WeightFile]:
    try:
        manifest = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsMissing(f"{path} does not exist: a weights directory holds a manifest.toml") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): make it readable") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise WeightsError(f"{path} is not valid TOML: {error}") from error
    files = manifest.pop("files", None)
    if manifest or not isinstance(files, dict):
        raise WeightsError(
            f"{path}: expected the table `files` and nothing else, found {sorted(manifest) or 'no table'}"
        )
    return {name: _parse(path, name, entry) for name, entry in files.items()}


def _sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _url(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"https://[^/\s@]+/\S+", value) is not None


def _text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


_KEYS = {
    "sha256": (_sha256, "64 lower-case hexadecimal digits"),
    "licence": (_text, "a text"),
    "licence_note": (_text, "a text"),
    "bytes": (_size, "a whole number above 0"),
    "url": (_url, "an https:// address without a user name"),
    "needed_for": (_texts, "a list of texts"),
}
_REQUIRED = ("sha256", "licence")


def _parse(path: Path, name: str, entry: object) -> WeightFile:
    """Check one entry key by key; `WeightsError` names the manifest, the file and the key."""
    if not _NAME.fullmatch(name):
        raise WeightsError(
            f"{path}: {name!r} is not a file name of letters, digits, '.', '_', '-' ending in .pth or .safetensors"
        )
    if not isinstance(entry, dict):
        raise WeightsError(f"{path}: {name} must be a table, found {entry!r}")
    for key in (*_REQUIRED, *entry):
        if key not in _KEYS:
            raise WeightsError(f"{path}: {name} has the unknown key {key!r}; known are {', '.join(_KEYS)}")
        valid, expected = _KEYS[key]
        if not valid(entry.get(key)):
            raise WeightsError(f"{path}: {key} of {name} must be {expected}, found {entry.get(key)!r}")
    return WeightFile(
        name=name,
        sha256=entry["sha256"],
        licence=entry["licence"],
        licence_note=entry.get("licence_note", ""),
        size_bytes=entry.get("bytes"),
        url=entry.get("url"),
        needed_for=tuple(entry.get("needed_for", ())),
    )


def _as_toml(file: WeightFile) -> str:
    entries: dict[str, object] = {
        "url": file.url,
        "bytes": file.size_bytes,
        "sha256": file.sha256,
        "licence": file.licence,
        "licence_note": file.licence_note or None,
        "needed_for": list(file.needed_for),
    }
    # A JSON text, number or list of texts is a TOML one too, but for one character that TOML wants escaped.
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in entries.items() if value is not None}
    lines = [f"{key} = {text}".replace("\x7f", r"\u007f") for key, text in texts.items()]
    return "\n".join([f'[files."{file.name}"]', *lines, ""])

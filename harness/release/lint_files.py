"""What is wrong with the files that would go into the image: pins, secrets, bulk, weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from docker.utils.build import exclude_paths
from packaging.requirements import InvalidRequirement, Requirement

from harness.release.findings import Finding
from restoration.errors import RestorationError, WeightsError
from restoration.weights import MANIFEST, Weights

MAX_FILE_BYTES: Final = 20_000_000
"""What only a weights file may exceed: an image keeps every layer, and every cold start downloads it."""

_SECRET_NAMES: Final = re.compile(
    r"(^|/)(\.env(\..*)?|.*\.env|\.netrc|\.pypirc|\.npmrc|id_(rsa|dsa|ecdsa|ed25519)|.*\.(pem|key|p12|pfx)|credentials(\.json)?"
    r"|\.git/config|\.git-credentials|\.aws/.*|\.ssh/.*|\.docker/config\.json)$"
)
_SECRET_TEXT: Final = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\br8_[A-Za-z0-9]{37,}|\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{36,}"
    rb"|\bAKIA[A-Z0-9]{16}\b|\bsk-[A-Za-z0-9_-]{32,}"
)
_SCANNED_BYTES: Final = 1_000_000
_WEIGHTS: Final = "weights"


def lint_files(root: Path, requirements: str | None, *, weights: bool) -> list[Finding]:
    """Check the pins, what .dockerignore lets through, and the weights if there is a directory of them."""
    found = [*_pins(root, requirements), *_context(root)]
    directory = root / _WEIGHTS
    if not directory.is_dir():
        return found
    if not weights:
        message = "The weights were not verified, because stand-ins took their place."
        fix = "Run the gate without --standins before a push."
        return [*found, Finding("WEIGHTS_NOT_VERIFIED", "warning", f"{_WEIGHTS}/{MANIFEST}", message, fix)]
    return [*found, *_weights(directory)]


def pins(root: Path, requirements: str | None) -> dict[str, str]:
    """Package to version, for every exact pin of a requirements file; empty without one."""
    pinned = {}
    for line in _lines(root, requirements):
        if (requirement := _parsed(line)) and (version := _exact(requirement)):
            pinned[requirement.name.lower()] = version.partition("+")[0]
    return pinned


def context(root: Path) -> list[str]:
    """Every file that a build would send, as the Docker client reads .dockerignore; paths relative to `root`."""
    ignore = root / ".dockerignore"
    lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    sent = exclude_paths(str(root), [*patterns, ".cog/build"])
    return sorted(path for path in sent if (root / path).is_file() and path not in ("Dockerfile", ".dockerignore"))


def _pins(root: Path, requirements: str | None) -> Iterator[Finding]:
    for line in _lines(root, requirements):
        requirement = _parsed(line)
        assert requirements is not None
        if requirement is None:
            message = f"The line {line!r} pins nothing that the image could be made from again."
            yield Finding("REQUIREMENT_NOT_PINNED", "error", requirements, message, "Write name==version.")
        elif requirement.name.lower() in ("cog", "coglet"):
            message = f"Cog strips {requirement.name} from the requirements."
            yield Finding("REQUIREMENT_STRIPPED", "error", requirements, message, "Use build.sdk_version in cog.yaml.")
        elif _exact(requirement) is None:
            message = f"{requirement.name} is not pinned exactly, so the next build may hold another one."
            yield Finding("REQUIREMENT_NOT_PINNED", "error", requirements, message, f"Write {requirement.name}==....")


def _lines(root: Path, requirements: str | None) -> list[str]:
    """The lines of a requirements file as Cog reads them: everything behind a # vanishes."""
    if requirements is None or not (root / requirements).is_file():
        return []
    lines = (root / requirements).read_text(encoding="utf-8").splitlines()
    return [text for line in lines if (text := line.partition("#")[0].strip())]


def _parsed(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None


def _exact(requirement: Requirement) -> str | None:
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1 or specifiers[0].operator != "==" or specifiers[0].version.endswith("*"):
        return None
    return specifiers[0].version


def _context(root: Path) -> Iterator[Finding]:
    if not (root / ".dockerignore").is_file():
        message = "Without a .dockerignore everything here goes into the image, .git included."
        yield Finding("DOCKERIGNORE_MISSING", "warning", ".dockerignore", message, "Write one that starts with *.")
    fix = "Remove it, or leave it out in .dockerignore."
    for path in context(root):
        size = (root / path).stat().st_size
        if _SECRET_NAMES.search(path) or _holds_secret(root / path, size):
            message = f"{path} looks like a secret, and .dockerignore lets it into the image."
            yield Finding("SECRET_IN_IMAGE", "error", path, message, fix)
        elif size > MAX_FILE_BYTES and not path.startswith(f"{_WEIGHTS}/"):
            message = f"{path} has {size / 1e6:.0f} MB, and .dockerignore lets it into the image."
            yield Finding("FILE_TOO_LARGE", "error", path, message, fix)


def _holds_secret(path: Path, size: int) -> bool:
    return size <= _SCANNED_BYTES and _SECRET_TEXT.search(path.read_bytes()) is not None


def _weights(directory: Path) -> Iterator[Finding]:
    """Verify what is there and what the default inputs need; without another version's file only its callers fail."""
    shown = f"{_WEIGHTS}/{MANIFEST}"
    try:
        weights = Weights(directory)
    except WeightsError as error:
        yield Finding(error.code, "error", shown, _plain(error), "Restore the manifest.")
        return
    for name, file in weights.files.items():
        if (directory / name).exists() or "default" in file.needed_for:
            try:
                weights.path(name)
            except WeightsError as error:
                yield Finding(error.code, "error", f"{_WEIGHTS}/{name}", _plain(error), file.remedy.capitalize() + ".")
    for path in sorted(directory.iterdir()):
        if path.suffix in (".pth", ".safetensors", ".onnx", ".pt", ".bin") and path.name not in weights.files:
            message = f"{path.name} is not in the manifest, so nothing says what it must be."
            yield Finding("WEIGHTS_UNLISTED", "error", f"{_WEIGHTS}/{path.name}", message, "List it, or remove it.")


def _plain(error: RestorationError) -> str:
    return str(error.args[0]).rstrip(".") + "."

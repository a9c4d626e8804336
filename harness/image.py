"""Build the model's image: with the `cog` command where it is installed, else with Docker alone and the same interface.

Both give /src, port 5000, Cog's server, the document it validates by, and the `run.cog.*` labels that tools read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import yaml
from docker.errors import ImageNotFound

from harness import schema
from harness.docker_engine import connected, gone
from harness.errors import BuildFailed, ImageMissing, SchemaError, UsageError

TAG = "gfpgan-cog"
"""What the image is called unless a caller says otherwise."""

BASE_IMAGE = "python:3.12-slim"
"""What the Dockerfile builds from unless a caller says otherwise."""

OLDEST_COG = (0, 20, 0)
"""Older `cog` commands neither take a schema nor agree on what `cog run` means."""

Weights = Literal["inside", "mounted"]

_SCHEMA_LABEL = "run.cog.openapi_schema"
_BASE_LABEL = "org.opencontainers.image.base.name"


@dataclass(frozen=True)
class Request:
    """What to build.

    root: the repository. tag: name of the image. base_image: None for the Dockerfile's own; naming one, like leaving
    the weights out ("mounted": to be mounted at run time), means Docker alone, since `cog` can do neither.
    build_arguments: more NAME=VALUE for the Dockerfile.
    """

    root: Path = Path(".")
    tag: str = TAG
    base_image: str | None = None
    weights: Weights = "inside"
    build_arguments: Sequence[str] = ()

    @property
    def needs_docker_alone(self) -> bool:
        """Whether anything is asked for that only the Dockerfile offers."""
        return bool(self.base_image or self.build_arguments or self.weights == "mounted")


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk: of the whole image, and of the layers that it adds to its base image (None: base unknown)."""

    whole: int
    own: int | None


def build(request: Request) -> str:
    """Build the image; the builder's output goes to the terminal. Returns what built it: "cog 0.23.1" or "docker".

    Raises SchemaError; UsageError when weights are to go in and there are none; BuildFailed; DockerError.
    """
    if request.weights == "inside" and not any((request.root / "weights").glob("*.pth")):
        place = (request.root / "weights").resolve()
        raise UsageError(f"{place} holds no weights to put inside; fetch them (make weights) or mount them.")
    schema.write(request.root / schema.SCHEMA_FILE, root=request.root)
    found = None if request.needs_docker_alone else cog_version()
    if found is not None and found >= OLDEST_COG:
        _build_with_cog(request)
        return "cog " + ".".join(map(str, found))
    _build_with_docker(request)
    return "docker"


def cog_version() -> tuple[int, ...] | None:
    """Return the version of the `cog` command, or None without one; other programs of that name do not count."""
    command = shutil.which("cog")
    if command is None:
        return None
    try:
        said = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603 # no input of others
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"cog version v?(\d+)\.(\d+)\.(\d+)", said.stdout)
    return tuple(int(part) for part in match.groups()) if match else None


def sizes(image: str) -> Sizes:
    """Measure an image that the engine has. Raises DockerError."""
    whole = _attributes(image)
    if whole is None:
        raise ImageMissing(f"The Docker Engine has no image {image}; build it: make image.")
    labels = whole["Config"].get("Labels") or {}
    base = _attributes(labels.get(_BASE_LABEL) or labels.get("run.cog.cog-base-image-name"))
    if base is None or not _is_base(base, whole):
        return Sizes(whole["Size"], None)
    return Sizes(whole["Size"], whole["Size"] - base["Size"])


def described(image: str) -> dict[str, Any]:
    """Return the OpenAPI document in an image's label, which Replicate reads too.

    Raises ImageMissing, DockerError; SchemaError when there is no such label, or no document in it.
    """
    attributes = _attributes(image)
    if attributes is None:
        raise ImageMissing(f"The Docker Engine has no image {image}; build it: make image.")
    label = (attributes["Config"].get("Labels") or {}).get(_SCHEMA_LABEL)
    if label is None:
        raise SchemaError(f"The image {image} has no label {_SCHEMA_LABEL}; build it with harness image or cog build.")
    try:
        document = json.loads(label)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise SchemaError(f"The label {_SCHEMA_LABEL} of the image {image} holds no OpenAPI document; build it again.")
    return document


def _attributes(image: str | None) -> dict[str, Any] | None:
    """Return what the engine knows of an image; None when it has none of that name."""
    if not image:
        return None
    with connected() as client:
        try:
            attributes: dict[str, Any] = client.images.get(image).attrs
        except ImageNotFound:
            return None
        return attributes


def _is_base(base: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    """Whether `image` was built on this very `base`, not on another that had its name then."""
    layers: list[str] = base["RootFS"]["Layers"]
    return bool(image["RootFS"]["Layers"][: len(layers)] == layers)


def _build_with_cog(request: Request) -> None:
    options = ["--tag", request.tag, "--separate-weights", "--openapi-schema", str(schema.SCHEMA_FILE)]
    _run(["cog", "build", *options], request.root)


def _build_with_docker(request: Request) -> None:
    """Build twice, as `cog` does: the labels say what pip installed, which only the finished image knows.

    The second time also sets the variables of cog.yaml's `environment`.
    """
    base = request.base_image or BASE_IMAGE
    source = "weights" if request.weights == "inside" else "weights/manifest.toml"
    arguments = [f"BASE_IMAGE={base}", f"WEIGHTS={source}", *request.build_arguments]
    _docker_build(request, [*_each("--build-arg", arguments), "."])
    unlabelled = _attributes(request.tag)
    labels = labels_for(request.root, _installed_in(request.tag)) | {_BASE_LABEL: base}
    labelled = [f"{name}={value}" for name, value in labels.items()]
    variables = "".join(f"ENV {entry}\n" for entry in _config(request.root).get("environment") or ())
    _docker_build(request, [*_each("--label", labelled), "-"], dockerfile=f"FROM {request.tag}\n{variables}")
    if unlabelled is not None:
        _remove(unlabelled["Id"])


def _remove(image_id: str) -> None:
    """Remove an image that has lost its name; the layers stay, which another image shares."""
    with connected() as client:
        gone(lambda: client.images.remove(image_id))


def labels_for(root: Path, installed: str) -> dict[str, str]:
    """Return the labels that `cog build` gives an image; `installed` is what `pip freeze` says in it."""
    return {
        "run.cog.version": version("cog"),
        "run.cog.config": json.dumps(_config(root), separators=(",", ":")),
        _SCHEMA_LABEL: (root / schema.SCHEMA_FILE).read_text(encoding="utf-8"),
        "run.cog.pip_freeze": installed,
        "run.cog.has_init": "true",
    }


def _config(root: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((root / "cog.yaml").read_text(encoding="utf-8"))
    return config


def _installed_in(image: str) -> str:
    with connected() as client:
        said: bytes = client.containers.run(image, ["python", "-m", "pip", "freeze"], remove=True, network_mode="none")
    return said.decode().strip()


def _docker_build(request: Request, options: list[str], dockerfile: str | None = None) -> None:
    _run(["docker", "build", "--tag", request.tag, *options], request.root, dockerfile)


def _run(command: list[str], directory: Path, stdin: str | None = None) -> None:
    program = shutil.which(command[0])
    if program is None:
        raise BuildFailed(f"The {command[0]} command is not installed; install Docker, or run without an image.")
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    done = subprocess.run([program, *command[1:]], cwd=directory, env=environment, input=stdin, text=True, check=False)  # noqa: S603 # our own arguments
    if done.returncode != 0:
        what = " ".join(command[:2])
        raise BuildFailed(f"{what} ended with exit code {done.returncode}; its last lines above say why.")


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def describe(measured: Sizes) -> str:
    """Say sizes as a person reads them: "6.21 GB, of which 5.98 GB on top of the base image"."""
    own = "" if measured.own is None else f", of which {measured.own / 1e9:.2f} GB on top of the base image"
    return f"{measured.whole / 1e9:.2f} GB{own}"

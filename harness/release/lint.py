"""What is wrong with a model's files, read without running them: rules that Cog and Replicate apply later, or never.

`lint_predictor` holds those of the predictor's source, `lint_files` those of what goes into the image; here are those
of cog.yaml, and `lint`, which runs all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from harness.release.findings import Finding
from harness.release.lint_files import lint_files, pins
from harness.release.lint_predictor import lint_predictor

CONFIG: Final = "cog.yaml"

TOP_KEYS: Final = {
    "build", "image", "model", "run", "predict", "train", "concurrency", "environment", "weights", "observability",
}  # fmt: skip
BUILD_KEYS: Final = {
    "python_version", "gpu", "cuda", "cudnn", "python_requirements", "python_packages", "pre_install", "run",
    "system_packages", "sdk_version",
}  # fmt: skip
PYTHONS: Final = ("3.10", "3.11", "3.12", "3.13")

# torch releases of Cog's compatibility matrix and their CUDA builds, as far back as a new model should go.
TORCH_CUDA: Final[Mapping[str, tuple[str, ...]]] = {
    "2.11.0": ("12.6", "12.8", "12.9", "13.0"),
    "2.10.0": ("12.6", "12.8", "13.0"),
    "2.9.1": ("12.6", "12.8", "13.0"),
    "2.9.0": ("12.6", "12.8", "13.0"),
    "2.8.0": ("12.6", "12.8", "12.9"),
    "2.7.1": ("11.8", "12.6", "12.8"),
    "2.7.0": ("11.8", "12.6", "12.8"),
    "2.6.0": ("11.8", "12.4", "12.6"),
}
REFUSED_NAMES: Final = {
    "PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "PYTHONUNBUFFERED", "LIBRARY_PATH", "HF_ENDPOINT",
    "HF_HUB_ENABLE_HF_TRANSFER",
}  # fmt: skip
REFUSED_PREFIXES: Final = (
    "R8_", "REPLICATE_", "CUDA_", "NVIDIA_", "NV_", "PGET_", "KUBERNETES_", "COG_OBSERVABILITY_", "COG_TRACE_", "OTEL_",
)  # fmt: skip

Config = Mapping[str, Any]


def lint(root: Path, *, weights: bool = True) -> list[Finding]:
    """Check cog.yaml, the predictor it names, and everything that would go into the image.

    root: the model's folder. weights: whether they are verified, too; without, a warning says so.
    """
    try:
        config = yaml.safe_load((root / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [_error("CONFIG_MISSING", "There is no cog.yaml here.", "Run this in the model's folder.")]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return [_error("CONFIG_UNREADABLE", f"cog.yaml is no valid YAML: {' '.join(str(error).split())}.")]
    if not isinstance(config, dict):
        return [_error("CONFIG_UNREADABLE", "cog.yaml holds no table of keys.")]
    findings = [finding for rule in _RULES for finding in rule(root, config)]
    findings += lint_predictor(root, predictor_of(config))
    findings += lint_files(root, _requirements(config), weights=weights)
    return findings


def predictor_of(config: Config) -> str | None:
    """The predictor that cog.yaml names, "file.py:Class"; None unless it names exactly one."""
    named = [config[key] for key in ("run", "predict") if isinstance(config.get(key), str)]
    return named[0] if len(named) == 1 else None


def _error(code: str, message: str, fix: str = "") -> Finding:
    return Finding(code, "error", CONFIG, message, fix)


def _build(config: Config) -> Config:
    build = config.get("build")
    return build if isinstance(build, dict) else {}


def _requirements(config: Config) -> str | None:
    name = _build(config).get("python_requirements")
    return name if isinstance(name, str) else None


def _unknown_keys(root: Path, config: Config) -> Iterator[Finding]:
    unknown = [(key, TOP_KEYS) for key in config if key not in TOP_KEYS]
    unknown += [(f"build.{key}", BUILD_KEYS) for key in _build(config) if key not in BUILD_KEYS]
    for key, known in unknown:
        yield _error("CONFIG_KEY_UNKNOWN", f"Cog refuses the key {key!r}.", f"Use one of {', '.join(sorted(known))}.")


def _predictor(root: Path, config: Config) -> Iterator[Finding]:
    if predictor_of(config) is None:
        message = "cog.yaml must name the predictor once, as `run` or as `predict`."
        yield _error("PREDICTOR_NOT_NAMED", message, 'Write predict: "predict.py:Predictor".')


def _python(root: Path, config: Config) -> Iterator[Finding]:
    version = _build(config).get("python_version")
    if version is None:
        yield _error("PYTHON_VERSION_MISSING", "Cog needs build.python_version.", 'Write python_version: "3.12".')
    elif not isinstance(version, str):
        message = f"YAML reads python_version as the number {version}: 3.10 would become 3.1."
        yield _error("PYTHON_VERSION_UNQUOTED", message, f'Write python_version: "{version}".')
    elif ".".join(version.split(".")[:2]) not in PYTHONS:
        yield _error("PYTHON_VERSION_UNKNOWN", f"Cog has no Python {version}.", f"Use one of {', '.join(PYTHONS)}.")


def _sdk(root: Path, config: Config) -> Iterator[Finding]:
    version = _build(config).get("sdk_version")
    if not (isinstance(version, str) and re.fullmatch(r"\d+\.\d+\.\d+", version)):
        message = "Without an exact build.sdk_version the image gets whatever Cog is newest on the day."
        yield _error("SDK_VERSION_NOT_PINNED", message, 'Write, for example, sdk_version: "0.23.1".')


def _cuda(root: Path, config: Config) -> Iterator[Finding]:
    build = _build(config)
    if not build.get("gpu"):
        return
    torch, cuda = pins(root, _requirements(config)).get("torch", "(not pinned)"), build.get("cuda")
    if cuda is not None and not isinstance(cuda, str):
        yield _error("CUDA_UNQUOTED", f"YAML reads cuda as the number {cuda}.", f'Write cuda: "{cuda}".')
    elif cuda is None and torch not in TORCH_CUDA:
        message = f"Cog cannot choose a CUDA for torch {torch}, which is not in its matrix."
        yield _error("CUDA_NOT_SET", message, 'Write build.cuda, for example "12.8", or pin torch 2.11.0.')
    elif cuda is not None and torch in TORCH_CUDA and ".".join(cuda.split(".")[:2]) not in TORCH_CUDA[torch]:
        builds = ", ".join(TORCH_CUDA[torch])
        yield _error("CUDA_NOT_BUILT", f"torch {torch} has no build for CUDA {cuda}.", f"Use one of {builds}.")


def _environment(root: Path, config: Config) -> Iterator[Finding]:
    for entry in config.get("environment") or ():
        name, equals, value = str(entry).partition("=")
        if not equals:
            yield _error("ENVIRONMENT_MALFORMED", f"Cog wants NAME=value in environment, not {entry!r}.")
        elif name in REFUSED_NAMES or name.startswith(REFUSED_PREFIXES):
            yield _error("ENVIRONMENT_REFUSED", f"Cog refuses to set {name}.", "Choose another name.")
        elif re.search(r"\s", value):
            message = f"The value of {name} holds a space, and Cog writes it into the image without quotes."
            yield _error("ENVIRONMENT_MALFORMED", message, "Set it in setup() instead.")


def _requirements_file(root: Path, config: Config) -> Iterator[Finding]:
    build, name = _build(config), _requirements(config)
    if "python_packages" in build:
        message = "build.python_packages is deprecated and excludes python_requirements."
        yield _error("PYTHON_PACKAGES_DEPRECATED", message, "Move the list to requirements.txt.")
    if name is not None and not (root / name).is_file():
        yield _error("REQUIREMENTS_MISSING", f"build.python_requirements names {name}, which does not exist.")


def _image(root: Path, config: Config) -> Iterator[Finding]:
    if "image" in config and "model" in config:
        yield _error("IMAGE_AND_MODEL", "cog.yaml has both image and model, which exclude each other.", "Keep image.")


_RULES: Final[tuple[Callable[[Path, Config], Iterator[Finding]], ...]] = (
    _unknown_keys, _predictor, _python, _sdk, _cuda, _environment, _requirements_file, _image,
)  # fmt: skip

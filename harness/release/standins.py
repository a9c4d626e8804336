"""Stand-in weights in place of the real ones: for the gate, and for a rehearsal of a folder that has none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import yaml

from harness.release.cases import CASES, record_faces
from harness.release.lint import CONFIG
from harness.release.lint_files import context
from restoration.standin import write_standins

WEIGHTS: Final = Path("weights")
DETECTOR: Final = {"RESTORATION_DETECTOR": "recorded"}
"""No detector can be a stand-in: the faces of the cases' pictures are on record instead."""


def write(weights: Path, cases: Path) -> None:
    """Make `weights` a directory of stand-ins which know the faces that the cases record.

    Raises WeightsError where it holds other weights, UsageError for cases that cannot be read.
    """
    write_standins(weights)
    record_faces(cases, weights)


def environment(weights: Path) -> dict[str, str]:
    """Return the variables that let a model here run on them."""
    return DETECTOR | {"RESTORATION_WEIGHTS": str(weights.resolve())}


def folder(root: Path, copy: Path) -> Path:
    """Copy of a model's folder what the gate and the image need, with stand-ins as its weights; returns `copy`.

    Its cog.yaml sets DETECTOR, so that the image, too, runs without any setting from outside. Raises as `write` does.
    """
    config: dict[str, Any] = yaml.safe_load((root / CONFIG).read_text(encoding="utf-8"))
    beside = ("Dockerfile", ".dockerignore", str(config.get("build", {}).get("python_requirements", "")))
    for name in {*context(root), *(name for name in beside if (root / name).is_file())}:
        if WEIGHTS not in Path(name).parents:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name)
    if (root / CASES).is_dir():
        shutil.copytree(root / CASES, copy / CASES, dirs_exist_ok=True)
    config["environment"] = [*config.get("environment", ()), *(f"{name}={value}" for name, value in DETECTOR.items())]
    (copy / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    write(copy / WEIGHTS, copy / CASES)
    return copy

"""Names for the real predictor with stand-in weights; `packaged_model` makes it."""

from __future__ import annotations

import shutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TAG = "gfpgan-cog-test/model"
RECORDED = {"RESTORATION_DETECTOR": "recorded", "RESTORATION_DEVICE": "cpu"}  # no detector can be a stand-in


def copy_of_repository(root: Path) -> Path:
    """Copy what a build needs of the repository, without its weights; returns `root`."""
    ignored = shutil.ignore_patterns(".*", "tests", "weights", "__pycache__", "node_modules", "build")
    shutil.copytree(REPOSITORY, root, ignore=ignored, dirs_exist_ok=True)
    shutil.copy(REPOSITORY / ".dockerignore", root)
    return root

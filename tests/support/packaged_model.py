"""The real predictor with stand-in weights, as a checkout and as an image of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaged import TAG, copy_of_repository

from harness.docker_engine import Engine
from harness.image import Request, build
from restoration.standin import write_standins


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's files whose weights are stand-ins."""
    root = copy_of_repository(tmp_path_factory.mktemp("checkout"))
    (root / "secrets.env").write_text("TOKEN=1")  # what .dockerignore does not know must stay out
    write_standins(root / "weights")
    for name in "GFPGANv1.2.pth", "GFPGANv1.3.pth", "RestoreFormer.pth":  # which the default inputs do not need
        (root / "weights" / name).unlink()
    return root


@pytest.fixture(scope="session")
def model(engine: Engine, base_image: str, checkout: Path) -> str:
    """The image of the real predictor, weights inside."""
    assert build(Request(checkout, TAG, base_image)) == "docker"
    return TAG

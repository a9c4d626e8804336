"""Inputs that several areas share; what is not in the repository is skipped with the reason."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from restoration.standin import write_standins

pytest_plugins = ["replicate_fixtures"]

# A shell starts what runs in the background deaf to Ctrl-C, and so would be every process that a test sends one.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(os.environ.get("RESTORATION_TEST_INPUTS", Path(__file__).resolve().parents[2] / "shared"))
"""Real photographs and a real detector checkpoint, whose rights do not allow them in the repository."""


@pytest.fixture(scope="session")
def photos() -> Path:
    """A directory of real photographs, with landmarks.json."""
    directory = SHARED / "photos"
    if not (directory / "landmarks.json").is_file():
        pytest.skip("no real photographs here: name their directory's parent in RESTORATION_TEST_INPUTS")
    return directory


@pytest.fixture(scope="session")
def real_detector() -> Path:
    """A RetinaFace MobileNet-0.25 checkpoint that finds real faces."""
    path = SHARED / "weights" / "detection_mobilenet0.25_Final.pth"
    if not path.is_file():
        pytest.skip("no real detector checkpoint here: name its directory's parent in RESTORATION_TEST_INPUTS")
    return path


@pytest.fixture(scope="session")
def standins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A weights directory of stand-ins."""
    directory = tmp_path_factory.mktemp("standins")
    write_standins(directory)
    yield directory
    shutil.rmtree(directory)  # 1.4 GB, of which pytest would keep three

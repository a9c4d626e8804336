"""The real Docker Engine, where there is one."""

from __future__ import annotations

import os

import pytest

from harness.docker_engine import Engine
from harness.docker_engine import engine as describe_engine
from harness.errors import EngineMissing


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine that DOCKER_HOST names; without one the test is skipped, or fails where REQUIRE_DOCKER is set."""
    try:
        return describe_engine()
    except EngineMissing as error:
        if os.environ.get("REQUIRE_DOCKER"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def base_image() -> str:
    """What images are built from."""
    return os.environ.get("BASE_IMAGE", "python:3.12-slim")

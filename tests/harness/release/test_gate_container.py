"""The gate on an image: what will be pushed is what is checked."""

from __future__ import annotations

import asyncio
import shutil
from importlib.metadata import version

import pytest
from broken_models import CLEAN
from toy_models import TOYS

from harness import schema
from harness.docker_engine import Engine, connected
from harness.release.fuzz import Budget
from harness.release.gate import Request, check

pytest_plugins = ["docker_fixtures"]
IMAGE = "gfpgan-cog-test/gate:latest"
CONDITIONS = "real weights, in a container, case 'a picture is doubled'"


@pytest.fixture(scope="module")
def image(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The clean model as an image."""
    context = tmp_path_factory.mktemp("gate") / "clean"
    shutil.copytree(CLEAN, context)
    shutil.copy(TOYS / "contained" / "Dockerfile", context)
    (context / ".dockerignore").unlink()  # the cog command adds the schema beside what this one lets through
    schema.write(context / schema.SCHEMA_FILE, root=context)
    packages = " ".join(f"{name}=={version(name)}" for name in ("cog", "coglet", "pillow"))
    with connected() as client:
        arguments = {"BASE_IMAGE": base_image, "PACKAGES": packages}
        client.images.build(path=str(context), tag=IMAGE, buildargs=arguments, rm=True)
    return IMAGE


@pytest.mark.docker
def test_an_image_passes_cases_and_fuzz_and_is_measured(image: str) -> None:
    plenty = {"setup": 1e6, "predict": 1e6, "peak_bytes": 10**12, "conditions": CONDITIONS}
    request = Request(CLEAN, None, plenty, image=image, skip=("schema", "lint"), effort=Budget(examples=10))
    report = asyncio.run(check(request))
    assert report.findings == []
    assert {report.checks[name] for name in ("cases", "fuzz", "budget")} == {"passed"}
    assert 10_000_000 < report.figures["peak_bytes"] < 10**9

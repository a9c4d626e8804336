"""The gate on an image: what will be pushed is what is checked."""

from __future__ import annotations

import asyncio
import io
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from broken_models import CLEAN, make, replaced
from toy_models import TOYS

from harness import schema
from harness.docker_engine import Engine, connected
from harness.release.fuzz import Budget
from harness.release.gate import Request, check

pytest_plugins = ["docker_fixtures"]
IMAGE = "gfpgan-cog-test/gate:latest"
SERVED = ("lint", "cases", "fuzz", "budget")
LABEL = "run.cog.openapi_schema"
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
        labels = {LABEL: (context / schema.SCHEMA_FILE).read_text()}
        client.images.build(path=str(context), tag=IMAGE, buildargs=arguments, labels=labels, rm=True)
    return IMAGE


@pytest.mark.docker
def test_an_image_passes_cases_and_fuzz_and_is_measured(image: str) -> None:
    plenty = {"setup": 1e6, "predict": 1e6, "peak_bytes": 10**12, "conditions": CONDITIONS}
    request = Request(CLEAN, None, plenty, image=image, skip=("schema", "lint"), effort=Budget(examples=10))
    report = asyncio.run(check(request))
    assert report.findings == []
    assert {report.checks[name] for name in ("cases", "fuzz", "budget")} == {"passed"}
    assert 10_000_000 < report.figures["peak_bytes"] < 10**9


@pytest.mark.docker
def test_what_an_image_takes_is_what_its_label_says_whatever_the_source_says(image: str, tmp_path: Path) -> None:
    root = make(replaced("predict.py", "le=4", "le=8"), tmp_path)
    live = schema.openapi_schema(root=root)
    assert asyncio.run(check(Request(root, live, skip=SERVED))).checks["schema"] == "passed"
    report = asyncio.run(check(Request(root, live, image=image, skip=SERVED)))
    assert [(one.code, one.severity) for one in report.findings] == [("INPUT_MAXIMUM", "breaking")]


@pytest.fixture
def mislabelled(engine: Engine, base_image: str) -> Iterator[str]:
    """An image whose label holds something else."""
    with connected() as client:
        dockerfile = f"FROM {base_image}\nLABEL {LABEL}=nonsense\n"
        image, _ = client.images.build(fileobj=io.BytesIO(dockerfile.encode()), rm=True)
        yield image.id
        client.images.remove(image.id)


@pytest.mark.docker
def test_an_image_that_does_not_say_what_it_takes_is_found(mislabelled: str, base_image: str) -> None:
    for image, words in (base_image, "has no label"), (mislabelled, "holds no OpenAPI document"):
        (finding,) = asyncio.run(check(Request(CLEAN, image=image, skip=SERVED))).findings
        assert (finding.code, finding.severity) == ("SCHEMA_UNREADABLE", "error")
        assert words in finding.message

"""Comparing two versions: what counts as the same output, and what is told of schemas."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from push_world import MODEL, World
from typer.testing import CliRunner

from harness.cli import app
from harness.errors import UsageError
from harness.release import compare

pytest_plugins = ["push_fixtures"]

NOISE = np.random.default_rng(5)
PICTURE = NOISE.integers(0, 200, (40, 60, 3), dtype=np.uint8)


def png(pixels: np.ndarray, kind: str = "png") -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, kind)
        return file.getvalue()


@pytest.mark.parametrize(
    ("ours", "theirs", "alike", "said"),
    [
        ("text", "text", True, "equal"),
        ("text", "other", False, "different"),
        (b"bytes", b"bytes", True, "equal"),
        (b"bytes", b"other", False, "not both of them images"),
        (png(PICTURE), b"", False, "not both of them images"),
        (png(PICTURE), png(PICTURE + 1), True, "60 x 40 pixels, SSIM"),
        (png(PICTURE), png(PICTURE[::-1]), False, "60 x 40 pixels, SSIM"),
        (png(PICTURE), png(PICTURE[:-1]), False, "60 x 40 pixels here, 60 x 39 pixels there"),
        ([png(PICTURE), "a"], [png(PICTURE), "a"], True, "equal; equal"),
        ([png(PICTURE), "a"], [png(PICTURE), "b"], False, "equal; different"),
        (["a"], ["a", "b"], False, "different"),
        (None, None, True, "equal"),
    ],
)
def test_outputs(ours: Any, theirs: Any, alike: bool, said: str) -> None:  # noqa: ANN401 - JSON values
    likeness = compare.outputs(ours, theirs)
    assert likeness.alike is alike
    assert said in likeness.text


def test_a_version_is_named_or_the_newest(world: World) -> None:
    release = world.push()
    assert compare.remote_version(world.account, MODEL).id == release.version
    assert compare.remote_version(world.account, f"{MODEL}:{release.version}").id == release.version
    for wrong in ("toy", f"{MODEL}:{'0' * 64}", "local/absent"):
        with pytest.raises(UsageError):
            compare.remote_version(world.account, wrong)


def test_the_command_tells_the_differences_as_diff_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_BASE_URL", world.proxy.url)
    monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_the_right_one")
    world.push()
    same = CliRunner().invoke(app, ["compare", str(world.root), MODEL])
    assert (same.exit_code, same.stdout) == (0, "Schemas: 0 differences.\n")
    predictor = world.root / "predict.py"
    predictor.write_text(
        predictor.read_text().replace("text: str", "words: str").replace("return text", "return words")
    )
    changed = CliRunner().invoke(app, ["compare", str(world.root), MODEL])
    assert changed.exit_code == 1
    assert "breaking:" in changed.stdout


def test_the_folders_own_output_comes_from_its_own_server(folder: Path) -> None:
    import asyncio

    assert asyncio.run(compare.local_output(folder, {"text": "good day"})) == "good day"

"""A folder on stand-in weights: the same model to gate and builder, without its weights and what else lies around."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from broken_models import make

from harness.release import standins
from harness.release.lint import lint


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ones have 1.4 GB; what they do is another test's."""
    monkeypatch.setattr(standins, "write_standins", lambda weights: (weights / "manifest.toml").touch())


def files(root: Path) -> set[str]:
    """Without what Python leaves beside a predictor that it has imported."""
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {str(path) for path in paths if "__pycache__" not in path.parts}


def test_the_copy_has_what_gate_and_builder_need_and_nothing_else(tmp_path: Path) -> None:
    root, copy = make(lambda _: None, tmp_path / "model"), tmp_path / "copy"
    (copy / "weights").mkdir(parents=True)
    whole = {name for name in files(root) if not name.startswith((".cog/", "weights/"))}
    for name in (".git/config", ".venv/lib/huge.so", "weights/real.pth", "photo.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("not wanted")
    assert standins.folder(root, copy) == copy
    assert files(copy) == whole | {"weights/manifest.toml"}
    assert [finding.code for finding in lint(copy, weights=False)] == ["WEIGHTS_NOT_VERIFIED"]


def test_its_image_looks_recorded_faces_up_and_the_original_stays_as_it_was(tmp_path: Path) -> None:
    root, copy = make(lambda _: None, tmp_path / "model"), tmp_path / "copy"
    (copy / "weights").mkdir(parents=True)
    before = (root / "cog.yaml").read_text()
    standins.folder(root, copy)
    expected = yaml.safe_load(before)
    expected["environment"].append("RESTORATION_DETECTOR=recorded")
    assert yaml.safe_load((copy / "cog.yaml").read_text()) == expected
    assert (root / "cog.yaml").read_text() == before

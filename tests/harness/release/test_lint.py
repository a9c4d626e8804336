"""What lint reads must be what Cog and Docker read: the source with its imports, and .dockerignore as a build does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from broken_models import make, replaced
from packaged import REPOSITORY

from harness.docker_engine import Engine
from harness.release.lint import lint
from harness.release.lint_files import context, pins

pytest_plugins = ["docker_fixtures"]

FILES = [
    "a.txt", "b.log", "deep/a.txt", "deep/b.log", "deep/er/a.txt", "deep/er/c.md", ".env", "deep/.env",
    "weights/x.pth", "weights/x.pth.part", "src/__pycache__/m.pyc", "src/m.py",
]  # fmt: skip
IGNORED = [
    "*.log",
    "**/*.log",
    "deep",
    "deep/*\n!deep/er",
    "*\n!src\n**/__pycache__",
    "*\n!weights\nweights/*.part",
    "**/.env\n# a comment\n\n!deep/.env",
    "/a.txt\ndeep/../b.log",
    "deep/?r/a.txt",
    "*\n!deep/er/c.md",
    "  src/  ",
    "[ab].*",
]


def test_this_repository_has_nothing_to_complain_about() -> None:
    assert [finding.code for finding in lint(REPOSITORY, weights=False)] == ["WEIGHTS_NOT_VERIFIED"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from cog import BasePredictor, Input, Path", "import cog\nfrom cog import BasePredictor, Input, Path"),
        ("        scale: float = Input(", "        *,\n        scale: float = Input("),
        ("default=2, ge=1", "default=USUAL, ge=1"),
        ("Input(description=\"Size of the output.\", default=2", "Input(2, description=\"Size of the output.\""),
        ("ge=1, le=4", "ge=-1.5, le=4"),
        ("scale: float = Input(", "scale: float | None = Input("),
        ('tone: str = Input(description="Which grey.", ', "tone: str = Input(deprecated=True, "),
        (") -> Path:", ") -> FilePath:"),
    ],
    ids=["module import", "keyword only", "named default", "default first", "negative bound", "optional", "deprecated",
         "alias"],
)  # fmt: skip
def test_what_cog_understands_is_let_through(old: str, new: str, tmp_path: Path) -> None:
    root = make(replaced("predict.py", old, new), tmp_path)
    source = root / "predict.py"
    source.write_text(source.read_text().replace("\n\nclass Pre", "\nUSUAL = 2\n\n\nclass Pre"))
    if "FilePath" in new:  # the name does not matter, where it comes from does
        text = source.read_text().replace("from pathlib import Path as FilePath", "from cog import Path as FilePath")
        source.write_text(text)
    assert lint(root) == []


def test_pins_are_read_as_pip_reads_them(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text(
        "Torch==2.11.0+cu128  # why\n\n# nothing\nnumpy>=2\npillow == 13.0.0 ; python_version > '3'\n"
    )
    assert pins(tmp_path, "r.txt") == {"torch": "2.11.0", "pillow": "13.0.0"}
    assert pins(tmp_path, "none.txt") == {}


def written(root: Path, ignored: str) -> Path:
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    (root / ".dockerignore").write_text(ignored)
    return root


def test_without_a_dockerignore_everything_goes(tmp_path: Path) -> None:
    root = written(tmp_path, "")
    (root / ".dockerignore").unlink()
    assert context(root) == sorted(FILES)


@pytest.mark.docker
@pytest.mark.parametrize("ignored", IGNORED)
def test_dockerignore_means_what_the_builder_makes_of_it(engine: Engine, tmp_path: Path, ignored: str) -> None:
    root, sent = written(tmp_path / "context", ignored), tmp_path / "sent"
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    command = ["docker", "build", "--quiet", "--file", str(tmp_path / "Dockerfile"), "--output", str(sent), str(root)]
    done = subprocess.run(
        command, env=os.environ | {"DOCKER_BUILDKIT": "1"}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = sorted(str(path.relative_to(sent)) for path in sent.rglob("*") if path.is_file())
    assert context(root) == [name for name in found if name != ".dockerignore"]

"""Replicate's own Python clients, unmodified, against the local Replicate with a real Cog server behind it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
PY1 = ("replicate==1.0.7",)
PY2 = ("replicate==2.0.0b4",)


@pytest.mark.parametrize(
    ("requirements", "program", "base"),
    [
        (PY1, ["py1.py"], ""),  # this client adds /v1 itself
        (PY1, ["py1_async.py"], "/v1"),  # and works all the same when it was given
        (PY2, ["py2.py", "sync"], "/v1"),
        (PY2, ["py2.py", "async"], ""),
    ],
    ids=["1.x", "1.x-async", "2.x", "2.x-async"],
)
def test_every_call_of_the_client_works_unchanged(
    requirements: tuple[str, ...],
    program: list[str],
    base: str,
    client_python: Callable[..., Path],
    client_environment: dict[str, str],
    local_replicate: str,
) -> None:
    python = client_python(*requirements)
    done = subprocess.run(
        [str(python), *program],
        cwd=PROGRAMS,
        env={**client_environment, "REPLICATE_BASE_URL": local_replicate + base},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    failures = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    assert not failures, done.stdout + done.stderr
    assert done.returncode == 0, done.stderr

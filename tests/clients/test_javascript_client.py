"""Replicate's JavaScript client, unmodified, against the local Replicate with a real Cog server behind it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CALLS = Path(__file__).parent / "js" / "calls.mjs"


def test_every_call_of_the_client_works_unchanged(
    client_js: Path, client_environment: dict[str, str], local_replicate: str
) -> None:
    shutil.copy(CALLS, client_js)  # Node looks for packages beside the program
    done = subprocess.run(
        ["node", "calls.mjs"],
        cwd=client_js,
        env={**client_environment, "REPLICATE_BASE_URL": f"{local_replicate}/v1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    failures = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    assert not failures, done.stdout + done.stderr
    assert done.returncode == 0, done.stderr

"""Toy models, each in a directory of its own with the Cog server that serves it; and waiting for what they do."""

from __future__ import annotations

import base64
import inspect
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from harness.model_server.process import ServerProcess

TOYS = Path(__file__).resolve().parents[1] / "toys"
PHOTO = b"not really a photo"
PHOTO_URL = f"data:image/jpeg;base64,{base64.b64encode(PHOTO).decode()}"


@dataclass
class Toy:
    """A toy model in a directory of its own, and what it left there."""

    process: ServerProcess
    marks: Path

    def marked(self, name: str) -> list[int]:
        """Process ids of the workers that left this mark, in order."""
        path = self.marks / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []


ToyMaker = Callable[..., Toy]


def make_toy(name: str, directory: Path, **options: Any) -> Toy:  # noqa: ANN401 - ServerProcess's own
    """Copy a toy into `directory` and describe the process that serves it."""
    root, marks = directory / name, directory / "marks"
    shutil.copytree(TOYS / name, root)
    marks.mkdir()
    environment = {"TOY_MARKS": str(marks)} | options.pop("environment", {})
    options.setdefault("stop_timeout_s", 3)
    return Toy(ServerProcess(root=root, logs=directory / "server.log", environment=environment, **options), marks)


async def eventually(condition: Callable[[], object], within_s: float = 15) -> None:
    """Poll until `condition` returns something true, awaited if need be; fail after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return
        assert time.monotonic() < deadline, f"not within {within_s} s"
        await anyio.sleep(0.02)

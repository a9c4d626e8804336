"""Real Cog servers with toy predictors."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.model_server.client import ModelServer
from harness.model_server.process import ServerProcess

TOYS = Path(__file__).parents[2] / "toys"
PHOTO = b"not really a photo"
PHOTO_URL = f"data:image/png;base64,{base64.b64encode(PHOTO).decode()}"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The harness is written for asyncio."""
    return "asyncio"


@dataclass
class Toy:
    """A toy model in a directory of its own, and what it left there."""

    process: ServerProcess
    marks: Path

    def marked(self, name: str) -> list[int]:
        """Process ids of the workers that left this mark, in order."""
        path = self.marks / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []


def make_toy(name: str, directory: Path, **options: Any) -> Toy:
    """Copy a toy into `directory` and describe the process that serves it."""
    root, marks = directory / name, directory / "marks"
    shutil.copytree(TOYS / name, root)
    marks.mkdir()
    environment = {"TOY_MARKS": str(marks)} | options.pop("environment", {})
    options.setdefault("stop_timeout_s", 3)
    return Toy(ServerProcess(root=root, logs=directory / "server.log", environment=environment, **options), marks)


@pytest.fixture
async def toy(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Callable[..., Toy]]:
    """A factory of toys; their processes are stopped in the end."""
    made: list[Toy] = []

    def make(name: str = "echo", **options: Any) -> Toy:
        made.append(make_toy(name, tmp_path / str(len(made)), **options))
        return made[-1]

    yield make
    for each in made:
        await each.process.stop()


@pytest.fixture(scope="module")
async def echo(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[Toy]:
    """One running echo model, shared by tests that leave it in order."""
    one = make_toy("echo", tmp_path_factory.mktemp("echo"))
    await one.process.start()
    yield one
    await one.process.stop()


@pytest.fixture
async def server(echo: Toy) -> AsyncIterator[ModelServer]:
    """A client of the shared echo model, which is READY."""
    async with ModelServer(echo.process.url) as client:
        await client.wait_ready(30)
        yield client


async def eventually(condition: Callable[[], Awaitable[Any] | Any], within_s: float = 10) -> Any:
    """Poll until `condition` returns something true, and return that; fail after `within_s`."""
    import inspect

    import anyio

    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within_s} s"
        await anyio.sleep(0.02)

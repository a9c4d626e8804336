"""Real Cog servers with toy predictors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from toy_models import Toy, ToyMaker, make_toy

from harness.model_server.client import ModelServer


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The harness is written for asyncio."""
    return "asyncio"


@pytest.fixture
async def toy(tmp_path: Path, anyio_backend: str) -> AsyncIterator[ToyMaker]:
    """A factory of toys; their processes are stopped in the end."""
    made: list[Toy] = []

    def make(name: str = "echo", **options: Any) -> Toy:  # noqa: ANN401 - ServerProcess's own
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

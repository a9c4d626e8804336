"""Fixtures: a folder, a local Replicate taking up what is pushed, and an account that reaches it through faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from faulty_proxy import faulty_proxy
from push_world import PREDICTOR, QUICK, TOKEN, Person, World
from replicate_in_thread import replicate
from tiny_registry import TinyRegistry, install_cog

from harness.registry import Registry
from harness.release.account import Account


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder."""
    root = tmp_path / "model"
    root.mkdir()
    (root / "predict.py").write_text(PREDICTOR)
    (root / "cog.yaml").write_text('build:\n  python_version: "3.12"\npredict: "predict.py:Predictor"\n')
    return root


@pytest.fixture
def tiny_registry() -> Iterator[TinyRegistry]:
    with TinyRegistry() as registry:
        yield registry


@pytest.fixture
def reader(tiny_registry: TinyRegistry) -> Iterator[Registry]:
    with closing(Registry(tiny_registry.host)) as registry:
        yield registry


@pytest.fixture
def world(
    folder: Path, tmp_path: Path, tiny_registry: TinyRegistry, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A push that will succeed, until a test sees to it that it does not; the `cog` command is a small one."""
    monkeypatch.setattr("harness.replicate.registry_watch.POLL_S", 0.02)
    monkeypatch.setattr("harness.release.upload.PAUSE_S", 0.01)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", install_cog(tmp_path / "bin"))
    monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
    with (
        replicate(tmp_path / "data", token=TOKEN, registry=tiny_registry.host) as local,
        faulty_proxy(str(local.base_url)) as proxy,
        closing(Account(TOKEN, proxy.url, QUICK)) as account,
    ):
        local.headers["Authorization"] = f"Bearer {TOKEN}"
        yield World(folder, tiny_registry, local, proxy, account, Person())


@pytest.fixture
def account_with(world: World) -> Iterator[Callable[[str], Account]]:
    """Makes accounts with other tokens."""
    made: list[Account] = []

    def make(token: str) -> Account:
        made.append(Account(token, world.proxy.url, QUICK))
        return made[-1]

    yield make
    for account in made:
        account.close()

"""A model's folder, a local Replicate that takes up what is pushed, and an account that reaches it through faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import FaultyProxy, faulty_proxy
from replicate_in_thread import Replicate, replicate
from tiny_registry import TinyRegistry, install_cog

from harness.registry import Registry
from harness.release.account import Account, Retries
from harness.release.findings import Report
from harness.release.push import Request, push
from harness.release.releases import Release

TOKEN = "r8_the_right_one"
MODEL = "local/toy"
PASSED = Report(checks={"schema": "passed"}, figures={"setup_s": 1.5})
QUICK = Retries(tries=3, pause_s=0.01, poll_s=0.02)

PREDICTOR = '''
from cog import BasePredictor, Input


class Predictor(BasePredictor):
    def predict(self, text: str = Input(description="Said again.", default="hello")) -> str:
        return text
'''


@dataclass
class Person:
    """Answers questions with `agrees`, and remembers what was said and asked."""

    agrees: bool = False
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def confirm(self, question: str) -> bool:
        self.asked.append(question)
        return self.agrees


@dataclass
class World:
    """All that a push meets."""

    root: Path
    registry: TinyRegistry
    replicate: Replicate
    proxy: FaultyProxy
    account: Account
    person: Person

    def request(self, **options: Any) -> Request:  # noqa: ANN401 - Request's own fields
        usual: dict[str, Any] = {
            "model": MODEL,
            "root": self.root,
            "smoke": "no",
            "registry": self.registry.host,
            "releases": self.root / "releases.toml",
            "appears_s": 15.0,
        }
        return Request(**(usual | options))

    def push(self, *, report: Report = PASSED, account: Account | None = None, **options: Any) -> Release:  # noqa: ANN401
        return push(self.request(**options), account or self.account, lambda live: report, self.person)

    def model(self) -> dict[str, Any]:
        """The model as the API shows it."""
        shown: dict[str, Any] = self.replicate.get(f"/v1/models/{MODEL}").json()
        return shown

    def create(self, visibility: str) -> None:
        owner, name = MODEL.split("/")
        body = {"owner": owner, "name": name, "visibility": visibility, "hardware": "cpu"}
        assert self.replicate.post("/v1/models", json=body).status_code == 201


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

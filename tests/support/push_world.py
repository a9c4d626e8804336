"""All that a push meets in a test; `push_fixtures` makes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faulty_proxy import FaultyProxy
from replicate_in_thread import Replicate
from tiny_registry import TinyRegistry

from harness.release.account import Account, Retries
from harness.release.findings import Report
from harness.release.push import Request, push
from harness.release.releases import Release

TOKEN = "r8_the_right_one"
MODEL = "local/toy"
PASSED = Report(checks={"schema": "passed"}, figures={"setup_s": 1.5})
QUICK = Retries(tries=3, pause_s=0.01, poll_s=0.02)

PREDICTOR = """
from cog import BasePredictor, Input


class Predictor(BasePredictor):
    def predict(self, text: str = Input(description="Said again.", default="hello")) -> str:
        return text
"""


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

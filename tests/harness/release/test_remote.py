"""A version on Replicate must run cases as a model server does, its files included; here on the local Replicate."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

from harness.release.account import Account, Retries
from harness.release.cases import Case, Expected, run_cases
from harness.release.remote import RemoteVersion

pytest_plugins = ["replicate_fixtures"]


def test_a_case_runs_on_replicate_and_compares_with_it(local_replicate: str, tiny_photo: Path) -> None:
    expected = Expected(size=(16, 12), similar_to="live")
    case = Case(tiny_photo, "a photo is doubled", {"img": f"@{tiny_photo.name}", "scale": 2}, expected)
    with closing(Account("r8_local", local_replicate, Retries(poll_s=0.05))) as account:
        model = account.model("tencentarc/gfpgan")
        assert model is not None
        assert model.latest_version is not None
        remote = RemoteVersion(account, model.latest_version.id)
        assert asyncio.run(run_cases(remote, [case], live=remote)) == []

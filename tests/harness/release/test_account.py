"""The account: credentials that are never shown, reading that is retried, and predictions that are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from faulty_proxy import Fault, FaultyProxy, faulty_proxy
from replicate_in_thread import PNG, PNG_URL, VERSION, Model, Replicate, replicate

from harness.errors import CredentialRefused, ReplicateFailed, SmokeFailed
from harness.release import compare
from harness.release.account import Account, Retries


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def local(tmp_path: Path, model: Model) -> Iterator[Replicate]:
    with replicate(tmp_path / "data", model) as one:
        yield one


@pytest.fixture
def proxy(local: Replicate) -> Iterator[FaultyProxy]:
    with faulty_proxy(str(local.base_url)) as one:
        yield one


@pytest.fixture
def account(proxy: FaultyProxy) -> Iterator[Account]:
    with closing(Account("r8_local", f"{proxy.url}/v1", Retries(tries=3, pause_s=0.01, poll_s=0.01))) as one:
        yield one


def test_a_missing_token_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPLICATE_API_TOKEN", raising=False)
    with pytest.raises(CredentialRefused, match=r"export REPLICATE_API_TOKEN=r8_\.\.\."):
        Account.from_environment()


@pytest.mark.parametrize("token", ["r8_secret\nSet-Cookie: a", "r8_secret\u00e9", "r8_sec ret"])
def test_a_damaged_token_is_not_shown(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("REPLICATE_API_TOKEN", token)
    with pytest.raises(CredentialRefused) as refused:
        Account.from_environment()
    assert "sec" not in str(refused.value)


def test_a_short_failure_is_waited_out_and_a_long_one_told(account: Account, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("GET", "/account", times=2)]
    assert account.username() == "local"
    proxy.faults = [Fault("GET", "/account", times=3)]
    with pytest.raises(ReplicateFailed, match="run the same command again later"):
        account.username()


def test_nobody_there_is_told_in_one_sentence() -> None:
    with (
        closing(Account("r8_local", "http://127.0.0.1:9", Retries(tries=2, pause_s=0.01))) as account,
        pytest.raises(ReplicateFailed, match=r"http://127\.0\.0\.1:9 does not answer"),
    ):
        account.username()


def test_something_else_than_the_api_is_told(account: Account, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("GET", "/account", times=3, status=200)]
    with pytest.raises(ReplicateFailed, match="check REPLICATE_BASE_URL"):
        account.username()


def test_a_prediction_is_sent_once_whatever_happens(account: Account, proxy: FaultyProxy, model: Model) -> None:
    proxy.faults = [Fault("POST", "/predictions", times=1, after=True)]
    with pytest.raises(ReplicateFailed):
        account.predict(VERSION, {"img": PNG_URL}, timeout_s=10)
    assert proxy.seen.count("POST /v1/predictions") == 1


def test_reading_a_running_prediction_survives_a_short_failure(
    account: Account, proxy: FaultyProxy, model: Model
) -> None:
    proxy.faults = [Fault("GET", "/predictions/", times=2)]
    assert account.predict(VERSION, {"img": PNG_URL}, timeout_s=20).status == "succeeded"
    assert len(model.ran) == 1


def test_a_prediction_that_takes_too_long_is_cancelled(account: Account, local: Replicate, model: Model) -> None:
    model.holds = True
    with pytest.raises(SmokeFailed, match="did not end within 0 s; it was cancelled"):
        account.predict(VERSION, {"img": PNG_URL}, timeout_s=0.3)
    newest = local.get("/v1/predictions").json()["results"][0]
    assert newest["status"] == "canceled"


def test_deployments_are_found_on_every_page(account: Account, local: Replicate) -> None:
    body = {"model": "tencentarc/gfpgan", "version": VERSION, "hardware": "cpu", "min_instances": 0, "max_instances": 1}
    for number in range(30):  # more than a page
        assert local.post("/v1/deployments", json=body | {"name": f"d{number}"}).status_code == 200
    assert len(account.deployments("tencentarc/gfpgan")) == 30
    assert account.deployments("somebody/else") == []


def test_the_output_of_a_prediction_is_fetched_with_a_photo_sent_as_a_file(account: Account, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(PNG)
    schema = {"components": {"schemas": {"Input": {"properties": {"img": {"type": "string", "format": "uri"}}}}}}
    assert compare.remote_output(account, VERSION, schema, {"img": f"@{photo}"}) == PNG

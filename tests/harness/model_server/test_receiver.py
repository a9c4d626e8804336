"""Whoever can reach the receiver writes nothing but the output of a prediction that is followed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ModelServerError
from harness.model_server.files import data_url, read_output
from harness.model_server.receiver import Receiver


@pytest.fixture
async def receiver(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Receiver]:
    async with Receiver(tmp_path / "received", max_file_bytes=1000) as one:
        yield one


async def put(receiver: Receiver, name: str, body: bytes, prediction_id: str = "p1") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.put(receiver.upload_url + name, content=body, headers={"x-prediction-id": prediction_id})


@pytest.mark.anyio
async def test_a_file_is_kept_under_a_name_of_ours(receiver: Receiver) -> None:
    with receiver.following("p1"):
        answers = [await put(receiver, "out.PNG", b"pixels"), await put(receiver, "out.PNG", b"others")]
    locations = [answer.headers["location"] for answer in answers]
    assert len(set(locations)) == 2
    assert read_output(locations[0], receiver.directory) == (b"pixels", ".png")
    assert read_output(locations[1], receiver.directory) == (b"others", ".png")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "name", ["..%2F..%2Fetc%2Fpasswd", "x.p%00ng", "x.png%2F..", "%2Fabs.png", "x.averylongsuffix"]
)
async def test_no_name_leads_out_of_the_directory(receiver: Receiver, tmp_path: Path, name: str) -> None:
    with receiver.following("p1"):
        await put(receiver, name, b"pixels")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.parent for path in files] in ([], [receiver.directory / "p1"])


@pytest.mark.anyio
async def test_nothing_is_taken_for_a_prediction_that_is_not_followed(receiver: Receiver, tmp_path: Path) -> None:
    assert (await put(receiver, "x.png", b"pixels", "../p1")).status_code == 404
    async with httpx.AsyncClient(trust_env=False) as http:
        event = receiver.upload_url.replace("/files/", "/events/p1")
        assert (await http.post(event, json={})).status_code == 404
        assert (await http.put(receiver.upload_url.replace("files", "x") + "x.png")).status_code == 404
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.anyio
async def test_a_file_over_the_limit_is_refused_and_removed(receiver: Receiver, tmp_path: Path) -> None:
    with receiver.following("p1"):
        assert (await put(receiver, "x.png", b"x" * 1001)).status_code == 413
        assert (await put(receiver, "x.png", b"x" * 1000)).status_code == 201
    assert [path.stat().st_size for path in tmp_path.rglob("*.png")] == [1000]


@given(content=st.binary(max_size=200))
def test_a_data_url_carries_the_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    path.write_bytes(content)
    assert data_url(path).startswith("data:image/png;base64,")
    assert read_output(data_url(path)) == (content, ".png")


@pytest.mark.parametrize(
    "value",
    ["", "data:image/png;base64", "data:image/png;base64,@@@", "file:///etc/passwd", "/etc/passwd", "http://x/y"],
)
def test_an_output_that_is_no_file_of_ours_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ModelServerError):
        read_output(value, tmp_path)


def test_a_file_url_is_refused_where_no_files_are_received(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"pixels")
    with pytest.raises(ModelServerError):
        read_output(path.as_uri())
    assert read_output(path.as_uri(), tmp_path)[0] == b"pixels"
    with pytest.raises(ModelServerError):
        read_output((tmp_path / "sub").as_uri() + "/../../x.png", tmp_path / "sub")

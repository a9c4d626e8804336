"""Files: uploads, capability URLs, files as inputs and outputs, retention."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicate_in_thread import PNG, PNG_URL, Model, Replicate, replicate
from replicate_processes import until

from harness.replicate.inputs import decode_data_url
from harness.replicate.settings import Rehearsals
from harness.replicate.tables import JsonValue

SDK = {"User-Agent": "replicate-python/1.0.7"}
BIG = PNG + bytes(20_000)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicate]:
    with replicate(tmp_path_factory.mktemp("shared")) as server:
        yield server


def upload(server: Replicate, **parts: JsonValue) -> JsonValue:
    answer = server.post("/v1/files", files={"content": ("photo.png", PNG, "image/png")} | parts)
    assert answer.status_code == 201, answer.text
    return answer.json()


def anonymous(url: str, **options: JsonValue) -> httpx.Response:
    return httpx.get(url, trust_env=False, **options)


def test_an_upload_is_described_as_clients_need_it(shared: Replicate) -> None:
    file = upload(shared)
    assert (file["name"], file["content_type"], file["size"]) == ("photo.png", "image/png", len(PNG))
    assert file["checksums"]["sha256"] == hashlib.sha256(PNG).hexdigest()
    assert file["etag"] == hashlib.md5(PNG, usedforsecurity=False).hexdigest()
    assert shared.get(file["urls"]["get"]).json() == file
    assert file in shared.get("/v1/files").json()["results"]


def test_each_clients_way_to_upload_is_understood(shared: Replicate) -> None:
    unnamed = ("upload", PNG, "application/octet-stream")
    py2 = upload(shared, content=unnamed, filename=(None, "a.png"), **{"metadata[customer]": (None, "7")})
    assert (py2["name"], py2["content_type"], py2["metadata"]) == ("a.png", "image/png", {"customer": "7"})
    js = upload(
        shared, content=("buffer_1", PNG, "application/octet-stream"), metadata=("blob", b"{}", "application/json")
    )
    assert (js["content_type"], js["metadata"]) == ("image/png", {})
    curl = upload(
        shared, content=("f.txt", b"hello", "application/octet-stream;title=f.txt"), type=(None, "text/plain")
    )
    assert (curl["name"], curl["content_type"]) == ("f.txt", "text/plain")


def test_a_name_from_outside_is_never_a_path(shared: Replicate) -> None:
    file = upload(shared, content=("../../../etc/passwd", PNG, "image/png"))
    assert file["name"] == "passwd"


@pytest.mark.parametrize(
    "parts",
    [
        {"other": ("x", b"x")},
        {"content": (None, "no file")},
        {"content": ("x", b"x"), "metadata": (None, "[1]")},
        {"content": ("x", b"x"), "metadata": (None, "{")},
        {"content": ("x", b"x"), "filename": (None, "n" * 256)},
    ],
)
def test_a_bad_upload_is_refused(shared: Replicate, parts: JsonValue) -> None:
    refused = shared.post("/v1/files", files=parts)
    assert refused.status_code in {400, 422}
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("content", [b"", b"--x\r\n", b"no boundary at all"])
@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=x", "multipart/form-data", "text/plain"])
def test_a_broken_multipart_body_is_refused(shared: Replicate, content: bytes, content_type: str) -> None:
    assert shared.post("/v1/files", content=content, headers={"Content-Type": content_type}).status_code == 400


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with replicate(tmp_path, max_upload=1_000_000) as server:

        def chunks() -> Iterator[bytes]:  # without a Content-Length
            yield b'--x\r\nContent-Disposition: form-data; name="content"; filename="a"\r\n\r\n'
            for _ in range(40):
                yield bytes(100_000)
            yield b"\r\n--x--\r\n"

        too_large = {"content": ("a", bytes(3_000_000))}
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        for refused in (
            server.post("/v1/files", files=too_large),
            server.post("/v1/files", content=chunks(), headers=headers),
        ):
            assert (refused.status_code, refused.json()["detail"]) == (413, "Files must be less than 100MB in size")
        assert server.get("/v1/files").json()["results"] == []
        assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


def test_a_deleted_upload_is_gone(shared: Replicate) -> None:
    file = upload(shared, content=("a", b"only here"))
    assert shared.delete(file["urls"]["get"]).status_code == 204
    assert shared.get(file["urls"]["get"]).status_code == 404
    assert not shared.service.blobs.path(file["checksums"]["sha256"]).exists()


def test_contents_stay_while_another_file_has_the_same(shared: Replicate) -> None:
    first, second = upload(shared, content=("a", b"twice")), upload(shared, content=("b", b"twice"))
    shared.delete(first["urls"]["get"])
    assert shared.service.blobs.path(second["checksums"]["sha256"]).read_bytes() == b"twice"


def test_a_signed_download_needs_no_token_and_a_right_signature(shared: Replicate) -> None:
    file, expiry = upload(shared), str(int(time.time()) + 60)
    mark = hmac.new(shared.service.key, f"local {file['id']} {expiry}".encode(), hashlib.sha256).digest()
    query = {"owner": "local", "expiry": expiry, "signature": base64.b64encode(mark).decode()}
    url = f"{file['urls']['get']}/download"
    assert anonymous(url, params=query).content == PNG
    for wrong in ({"expiry": "1"}, {"owner": "other"}, {"signature": "x"}, {"expiry": "²"}):
        assert anonymous(url, params=query | wrong).status_code == 404


def test_outputs_have_lasting_urls_with_type_range_and_cors_and_no_token(shared: Replicate) -> None:
    url = shared.create(headers={"Prefer": "wait"}).json()["output"]
    assert url.endswith("/out.png")
    answer = anonymous(url, headers={"Origin": "https://anywhere.example"})
    assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")
    assert answer.headers["access-control-allow-origin"] == "*"
    part = anonymous(url, headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"PNG")
    assert anonymous(url.replace("out.png", "other.png")).status_code == 404


def test_an_uploaded_web_page_can_do_nothing_here(tmp_path: Path) -> None:
    html = "data:text/html;base64," + base64.b64encode(b"<script>1</script>").decode()
    with replicate(tmp_path, Model(output=html)) as server:
        answer = anonymous(server.create(headers={"Prefer": "wait"}).json()["output"])
        assert answer.headers["content-security-policy"].startswith("sandbox")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_an_sdk_that_waits_gets_data_urls_for_as_long_as_it_asks(shared: Replicate) -> None:
    made = shared.create(headers={**SDK, "Prefer": "wait"}).json()
    assert made["output"] == PNG_URL
    own = made["urls"]["get"]
    assert shared.get(own, headers=SDK).json()["output"] == PNG_URL
    assert shared.get(own).json()["output"].startswith("http://")
    listed = shared.get("/v1/predictions", headers=SDK).json()["results"]
    assert next(row for row in listed if row["id"] == made["id"])["output"].startswith("http://")


@pytest.mark.parametrize("headers", [{"Prefer": "wait"}, SDK])
def test_everybody_else_gets_urls(shared: Replicate, headers: dict[str, str]) -> None:
    made = shared.ended(shared.create(headers=headers).json()["id"])
    assert shared.get(made["urls"]["get"], headers=headers).json()["output"].startswith("http://")


def test_large_outputs_are_urls_even_then(tmp_path: Path) -> None:
    with replicate(tmp_path, inline_output=5) as server:
        assert server.create(headers={**SDK, "Prefer": "wait"}).json()["output"].startswith("http://")


@pytest.mark.parametrize(("outputs", "start"), [("data", "data:"), ("http", "http://")])
def test_outputs_can_be_fixed_to_one_kind(tmp_path: Path, outputs: str, start: str) -> None:
    with replicate(tmp_path, outputs=outputs) as server:
        for headers in ({"Prefer": "wait"}, {**SDK, "Prefer": "wait"}):
            assert server.create(headers=headers).json()["output"].startswith(start)


def test_outputs_of_any_shape_keep_it(tmp_path: Path) -> None:
    shape = {"faces": [PNG_URL, PNG_URL], "note": None, "count": 2, "text": "not data:"}
    with replicate(tmp_path, Model(output=shape)) as server:
        output = server.create(headers={"Prefer": "wait"}).json()["output"]
        assert [anonymous(url).content for url in output["faces"]] == [PNG, PNG]
        assert (output["note"], output["count"], output["text"]) == (None, 2, "not data:")


@pytest.mark.parametrize("path", ["/v1/files/{id}", "/files/{id}"])
def test_the_servers_own_file_urls_are_inputs_whatever_name_they_use(tmp_path: Path, path: str) -> None:
    model = Model()
    with replicate(tmp_path, model) as server:
        url = "http://some-container.internal:9" + path.format(id=upload(server)["id"])
        assert server.create(headers={"Prefer": "wait"}, input={"img": url}).json()["status"] == "succeeded"
        assert model.inputs[0]["img"] == PNG_URL


def test_the_output_of_one_prediction_is_the_input_of_the_next(tmp_path: Path) -> None:
    model = Model()
    with replicate(tmp_path, model) as server:
        first = server.create(headers={"Prefer": "wait"}).json()["output"]
        server.create(headers={"Prefer": "wait"}, input={"img": first})
        assert model.inputs[1]["img"] == PNG_URL


def test_a_long_data_url_is_kept_as_a_file_and_shown_as_its_url(tmp_path: Path) -> None:
    model = Model()
    long = "data:application/octet-stream;base64," + base64.b64encode(BIG).decode()
    with replicate(tmp_path, model) as server:
        made = server.create(headers={"Prefer": "wait"}, input={"img": long}).json()
        assert anonymous(made["input"]["img"]).content == BIG
        assert model.inputs[0]["img"] == "data:image/png;base64," + base64.b64encode(BIG).decode()  # and its true type


def test_an_input_url_that_cannot_be_had_fails_the_prediction_with_the_reason(tmp_path: Path) -> None:
    model = Model()
    with replicate(tmp_path, model) as server:
        made = server.create(headers={"Prefer": "wait"}, input={"img": "http://127.0.0.1:9/a.png"}).json()
        assert made["status"] == "failed"
        assert "cannot be fetched" in made["error"]
        assert model.ran == []


def test_inputs_that_cog_could_not_be_sent_fail_with_the_limit(tmp_path: Path) -> None:
    with replicate(tmp_path, max_sent=10) as server:
        url = upload(server)["urls"]["get"]
        made = server.create(headers={"Prefer": "wait"}, input={"img": url}).json()
        assert (made["status"], "10 bytes" in made["error"]) == ("failed", True)


def test_rehearsed_retention_removes_data_as_the_service_does(tmp_path: Path) -> None:
    long = "data:image/png;base64," + base64.b64encode(BIG).decode()
    with replicate(tmp_path, rehearsals=Rehearsals(retention_s=0.5)) as server:
        made = server.create(headers={"Prefer": "wait"}, input={"img": long}).json()
        until(lambda: server.prediction(made["id"])["data_removed"])
        after = server.prediction(made["id"])
        assert (after["input"], after["output"], after["logs"], after["status"]) == ({}, None, "", "succeeded")
        assert anonymous(made["output"]).status_code == 404
        assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []
        assert server.post(f"/local/predictions/{made['id']}/retry").status_code == 422


def test_a_retry_runs_the_same_input_again(tmp_path: Path) -> None:
    model = Model()
    with replicate(tmp_path, model) as server:
        made = server.create(headers={"Prefer": "wait"}, input={"img": PNG_URL, "scale": 3}).json()
        again = server.post(f"/local/predictions/{made['id']}/retry").json()
        assert server.ended(again["id"])["status"] == "succeeded"
        assert model.inputs[0] == model.inputs[1]
        assert server.get(again["urls"]["stream"]).status_code == 200


@given(st.binary(), st.sampled_from(["image/png", "application/octet-stream", "text/plain;charset=utf-8"]))
def test_data_urls_are_read_back_as_written(data: bytes, media_type: str) -> None:
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    assert decode_data_url(url) == (data, media_type.partition(";")[0])


@given(st.text(max_size=40))
def test_any_other_data_url_is_a_value_error_or_bytes(text: str) -> None:
    try:
        data, _ = decode_data_url("data:" + text)
    except ValueError:
        return
    assert isinstance(data, bytes)


def test_contents_that_a_crash_left_without_a_row_are_swept_at_the_next_start(tmp_path: Path) -> None:
    with replicate(tmp_path) as server:
        kept = server.create(headers={"Prefer": "wait"}).json()["output"].rpartition("/delivery/")[2]
        orphan = server.service.blobs.put(b"nobody knows me").path
    with replicate(tmp_path) as server:
        assert not orphan.exists()
        assert server.get(f"/delivery/{kept}").content == PNG


def test_strict_fetches_nothing_from_this_machine(tmp_path: Path) -> None:
    with replicate(tmp_path, strict=True) as server:
        url = f"{server.base_url.join('/local')}"
        made = server.create(headers={"Prefer": "wait"}, input={"img": url}).json()
        assert (made["status"], "not a public address" in made["error"]) == ("failed", True)

"""curl as people type it: bodies without a content type, the QUERY method, uploads with part headers."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

VERSION = "0fbacf7afc6c144e5be9767cff80f25aff23e52b0708f17e20f9879b2f21516c"
TOKEN = ["-H", "Authorization: Bearer r8_local"]


def curl(*arguments: str, input: str | None = None) -> bytes:
    command = ["curl", "-sS", "--max-time", "60", "--noproxy", "*", *arguments]
    return subprocess.run(
        command, input=input.encode() if input else None, capture_output=True, check=True, timeout=90
    ).stdout


def curl_json(*arguments: str, input: str | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(curl(*arguments, input=input))
    return answer


def body(photo: Path, **more: object) -> str:
    img = "data:image/png;base64," + base64.b64encode(photo.read_bytes()).decode()
    return json.dumps({"version": VERSION, "input": {"img": img, "scale": 2, **more}})


def test_create_wait_and_download(local_replicate: str, tiny_photo: Path, tmp_path: Path) -> None:
    made = curl_json(
        *TOKEN, "-H", "Prefer: wait", "-d", "@-", f"{local_replicate}/v1/predictions", input=body(tiny_photo)
    )
    assert made["status"] == "succeeded"
    curl("-o", str(tmp_path / "out.png"), made["output"])  # a capability URL: no token
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_both_authorization_words_work_and_none_does_not(local_replicate: str) -> None:
    url = f"{local_replicate}/v1/account"
    assert curl_json("-H", "Authorization: Token r8_local", url)["username"] == "local"
    assert curl_json("-w", "", url) == {
        "title": "Unauthenticated",
        "detail": "You did not pass an authentication token",
        "status": 401,
    }


def test_models_are_searched_with_the_query_method(local_replicate: str) -> None:
    found = curl_json(*TOKEN, "-X", "QUERY", "-d", "gfpgan", f"{local_replicate}/v1/models")
    assert "gfpgan" in [model["name"] for model in found["results"]]


@pytest.mark.parametrize("part", ["type=image/png;filename=x.png", "type=application/octet-stream;title=x.png"])
def test_a_file_is_uploaded_used_and_removed(local_replicate: str, tiny_photo: Path, part: str) -> None:
    files = f"{local_replicate}/v1/files"
    uploaded = curl_json(*TOKEN, "-F", f"content=@{tiny_photo};{part}", files)
    assert uploaded["size"] == tiny_photo.stat().st_size
    request = json.dumps({"version": VERSION, "input": {"img": uploaded["urls"]["get"]}})
    made = curl_json(*TOKEN, "-H", "Prefer: wait=30", "-d", "@-", f"{local_replicate}/v1/predictions", input=request)
    assert made["status"] == "succeeded"
    assert curl(*TOKEN, "-X", "DELETE", "-w", "%{http_code}", f"{files}/{uploaded['id']}") == b"204"


def test_cancel(local_replicate: str, tiny_photo: Path) -> None:
    predictions = f"{local_replicate}/v1/predictions"
    made = curl_json(*TOKEN, "-d", "@-", predictions, input=body(tiny_photo, seconds=30))
    assert made["status"] == "starting"
    while not made["logs"]:
        made = curl_json(*TOKEN, f"{predictions}/{made['id']}")
    canceled = curl_json(*TOKEN, "-X", "POST", f"{predictions}/{made['id']}/cancel")
    assert canceled["id"] == made["id"]


def test_a_range_of_an_output_is_served(local_replicate: str, tiny_photo: Path) -> None:
    made = curl_json(
        *TOKEN, "-H", "Prefer: wait", "-d", "@-", f"{local_replicate}/v1/predictions", input=body(tiny_photo)
    )
    assert curl("-r", "1-3", made["output"]) == b"PNG"

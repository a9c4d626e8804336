"""The predictor as callers meet it: through Cog's own server, over HTTP, with stand-in weights."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import skimage.data
from PIL import Image

from harness.model_server.process import ServerProcess
from restoration.settings import REPOSITORY
from restoration.weights import WeightFile, Weights, write_manifest

SECRET = "never in an answer 7f3a"
PLAIN = {"background": "lanczos"}


def data_url(content: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


SKY = as_png(Image.new("RGB", (37, 23), (90, 140, 220)))


class Server:
    """A running model server and the words to call it with."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self.http = httpx.Client(base_url=process.url, timeout=250)

    def ready(self, timeout_s: float = 120) -> dict[str, Any]:
        """Wait until setup ended, one way or the other."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                health: dict[str, Any] = self.http.get("/health-check").json()
                if health["status"] not in ("UNKNOWN", "STARTING"):
                    return health
            time.sleep(0.1)
        raise TimeoutError(f"setup did not end: {self.process.logs.read_text()[-2000:]}")

    def predict(self, **inputs: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        """POST, again while the slot of the prediction before is still being released (409)."""
        deadline = time.monotonic() + 60
        while True:
            response = self.http.post("/predictions", json={"input": inputs})
            if response.status_code != 409 or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        answer: dict[str, Any] = response.json()
        return answer


@contextlib.contextmanager
def running(tmp_path: Path, environment: dict[str, str]) -> Iterator[Server]:
    process = ServerProcess(REPOSITORY, tmp_path / "server.log", environment=environment, stop_timeout_s=2)
    asyncio.run(process.start())
    server = Server(process)
    try:
        yield server
    finally:
        server.http.close()
        asyncio.run(process.stop())


@pytest.fixture(scope="module")
def server(standins: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {
        "RESTORATION_WEIGHTS": str(standins),
        "RESTORATION_DETECTOR": "recorded",
        "RESTORATION_DEVICE": "cpu",
    }
    with running(tmp_path_factory.mktemp("server"), environment) as one:
        health = one.ready()
        assert health["status"] == "READY", health
        yield one


def output_of(answer: dict[str, Any]) -> Image.Image:
    assert answer["status"] == "succeeded", answer
    return Image.open(io.BytesIO(base64.b64decode(answer["output"].partition(",")[2])))


def test_setup_names_weights_checksums_and_device(server: Server) -> None:
    # In the server's own output: Cog's record of the setup may end before its last line.
    logs = server.process.logs.read_text()
    assert "GFPGANv1.4.pth: sha256" in logs
    assert re.search(r"networks on cpu in (fp32|bf16)", logs)
    assert "Input validation enabled" in logs


def test_a_photo_is_restored_and_everything_about_it_is_said(server: Server) -> None:
    astronaut = Image.fromarray(skimage.data.astronaut())
    answer = server.predict(img=data_url(as_png(astronaut)), version="v1.4", scale=1.5, background="lanczos")
    assert output_of(answer).size == (768, 768)
    metrics = answer["metrics"]
    assert (metrics["faces_found"], metrics["faces_restored"]) == (1, 1)
    stages = {"decode", "detect", "align", "restore", "background", "parse", "paste", "encode"}
    assert set(metrics["seconds"]) == stages
    assert all(f"{stage}: " in answer["logs"] for stage in stages)
    assert "face: box 170,60,265,175, score 0.999, 95x115 pixels, restored" in answer["logs"]


def test_no_face_gives_the_enlarged_photo(server: Server) -> None:
    answer = server.predict(img=data_url(SKY))
    assert output_of(answer).size == (74, 46)
    assert answer["metrics"]["faces_found"] == 0


@pytest.mark.parametrize(
    ("scale", "size"),
    [(0.1, (4, 2)), (0.5, (18, 12)), (1, (37, 23)), (2.5, (92, 58)), (4, (148, 92)), (10, (370, 230))],
)
def test_the_output_is_round_input_times_scale(server: Server, scale: float, size: tuple[int, int]) -> None:
    assert output_of(server.predict(img=data_url(SKY), scale=scale, **PLAIN)).size == size


@pytest.mark.parametrize(("output_format", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
def test_the_output_has_the_format_asked_for(server: Server, output_format: str, kind: str) -> None:
    answer = server.predict(img=data_url(SKY), output_format=output_format, output_quality=80, **PLAIN)
    assert output_of(answer).format == kind
    assert answer["output"].startswith(f"data:image/{kind.lower()};base64,")


GIF = io.BytesIO()
Image.new("RGB", (4, 4)).save(GIF, "GIF")


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"hello, not an image", "UNSUPPORTED_FORMAT", "send one of JPEG, PNG"),
        (SKY[: len(SKY) // 2], "NOT_AN_IMAGE", "corrupt or truncated"),
        (b"", "NOT_AN_IMAGE", "empty"),
        (GIF.getvalue(), "UNSUPPORTED_FORMAT", "send one of JPEG, PNG"),
        (as_png(Image.new("1", (8000, 6300))), "TOO_LARGE", "max_input_megapixels"),
    ],
    ids=["text", "truncated", "empty", "gif", "50.4 megapixels"],
)
def test_what_is_no_usable_photo_fails_with_one_sentence(server: Server, content: bytes, code: str, words: str) -> None:
    answer = server.predict(img=data_url(content), **PLAIN)
    assert answer["status"] == "failed"
    assert f"[{code}]" in answer["error"]
    assert words in answer["error"]
    assert "\n" not in answer["error"]
    assert "Traceback" not in json.dumps(answer)
    assert "Traceback" in server.process.logs.read_text()


def test_an_output_over_the_limit_fails_naming_it(server: Server) -> None:
    answer = server.predict(img=data_url(as_png(Image.new("1", (3000, 2000)))), scale=10, **PLAIN)
    assert answer["status"] == "failed"
    assert "max_output_megapixels" in answer["error"]


@pytest.mark.parametrize("form", ["{path}", "file://{path}", "file:{path}", "/etc/passwd", "../../../../etc/passwd"])
def test_a_path_is_never_opened(server: Server, tmp_path: Path, form: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(SKY + SECRET.encode())
    answer = server.predict(img=form.format(path=secret), **PLAIN)
    assert answer["status"] == "failed"
    assert "[INVALID_INPUT] img is not an uploaded file" in answer["error"]
    text = json.dumps(answer)
    assert SECRET not in text
    assert "root:" not in text


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({"scale": 0.09}, "scale"),
        ({"scale": 10.1}, "scale"),
        ({"scale": "big"}, "scale"),
        ({"strength": 1.1}, "strength"),
        ({"version": "v1.0"}, "version"),
        ({"faces": "some"}, "faces"),
        ({"background": None}, "background"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_quality": 0}, "output_quality"),
        ({"output_quality": 50.5}, "output_quality"),
    ],
)
def test_values_outside_the_schema_are_422(server: Server, inputs: dict[str, Any], field: str) -> None:
    answer = server.predict(img=data_url(SKY), **inputs)
    assert {tuple(entry["loc"]) for entry in answer["detail"]} == {("body", "input", field)}


def test_a_missing_photo_is_422(server: Server) -> None:
    assert server.predict()["detail"][0]["loc"] == ["body", "input", "img"]


def test_equal_calls_give_equal_bytes_and_leave_one_file(server: Server) -> None:
    answers = [server.predict(img=data_url(SKY), **PLAIN) for _ in range(3)]
    assert len({answer["output"] for answer in answers}) == 1
    (worker,) = psutil.Process(server.process.pid).children()
    assert len(list(Path(worker.environ()["TMPDIR"]).glob("restored-*/restored-*"))) == 1


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="only Linux can limit another process's memory")
def test_out_of_memory_fails_clearly_and_the_next_prediction_works(server: Server) -> None:
    """The worker's address space is really limited, so that the pixels of the result do not fit."""
    photo = data_url(as_png(Image.new("L", (2000, 1600), 99)))
    assert server.predict(img=data_url(SKY), **PLAIN)["status"] == "succeeded"
    (worker,) = psutil.Process(server.process.pid).children()
    worker.rlimit(psutil.RLIMIT_AS, (worker.memory_info().vms + 100_000_000, -1))
    try:
        answer = server.predict(img=photo, scale=7, output_format="jpg", **PLAIN)
    finally:
        worker.rlimit(psutil.RLIMIT_AS, (-1, -1))
    assert answer["status"] == "failed"
    assert "[OUT_OF_MEMORY]" in answer["error"]
    assert "Trying once more with smaller batches" in server.process.logs.read_text()
    assert output_of(server.predict(img=data_url(SKY), **PLAIN)).size == (74, 46)


@pytest.mark.parametrize("fault", ["missing", "truncated", "changed"])
def test_setup_fails_within_seconds_naming_file_and_command(standins: Path, tmp_path: Path, fault: str) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    for file in standins.iterdir():
        if file.is_dir():
            continue  # converted models
        if file.suffix != ".pth":
            (weights / file.name).write_bytes(file.read_bytes())
        elif file.name != "GFPGANv1.4.pth":
            (weights / file.name).symlink_to(file)
    (weights / ".verified.json").unlink(missing_ok=True)
    content = (standins / "GFPGANv1.4.pth").read_bytes()
    if fault == "truncated":
        (weights / "GFPGANv1.4.pth").write_bytes(content[:-1])
    elif fault == "changed":
        (weights / "GFPGANv1.4.pth").write_bytes(b"X" + content[1:])
    environment = {"RESTORATION_WEIGHTS": str(weights), "RESTORATION_DETECTOR": "recorded"}
    with running(tmp_path, environment) as one:
        health = one.ready()
        assert health["status"] == "SETUP_FAILED"
        logs = health["setup"]["logs"]
        assert "GFPGANv1.4.pth" in logs
        assert "run " in logs
        refused = one.predict(img=data_url(SKY))
        assert "Setup has not finished" in refused["error"]


@pytest.mark.photos
def test_real_photographs_run_the_whole_path(standins: Path, photos: Path, real_detector: Path, tmp_path: Path) -> None:
    """The real detector finds the faces; stand-ins restore the largest one of each photo."""
    weights = tmp_path / "weights"
    weights.mkdir()
    for file in standins.glob("*.pth"):
        (weights / file.name).symlink_to(file)
    (weights / real_detector.name).symlink_to(real_detector)
    known = "38ec7bb3c9cbfe2f40edabc05fab970a6d648747cbc534092be85d5eb9b37ed0"
    entry = WeightFile(real_detector.name, known, "MIT", size_bytes=1_789_735)
    write_manifest(weights, [entry, *Weights(standins).files.values()])
    environment = {"RESTORATION_WEIGHTS": str(weights), "RESTORATION_DETECTOR": "mobilenet0.25"}
    with running(tmp_path, environment) as one:
        health = one.ready()
        assert health["status"] == "READY", health
        for name, faces in (("Blake_Lively.jpg", 2), ("10045.png", 3), ("00.jpg", 2)):
            content = (photos / name).read_bytes()
            answer = one.predict(img=data_url(content), faces="largest", scale=1.2, **PLAIN)
            width, height = Image.open(io.BytesIO(content)).size
            result = output_of(answer)
            assert result.size == (round(width * 1.2), round(height * 1.2))
            assert answer["metrics"]["faces_found"] == faces
            assert answer["metrics"]["faces_restored"] == 1
            original = np.asarray(Image.open(io.BytesIO(content)).convert("RGB").resize(result.size), float)
            assert np.abs(np.asarray(result.convert("RGB"), float) - original).mean() < 6

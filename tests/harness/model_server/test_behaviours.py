"""What the packaged model promises over HTTP, the same in a process and in a container.

One test for each behaviour, numbered; the real predictor on stand-in weights. Three of them need the server to reach
the test's own address, which a container cannot; two are shown elsewhere:

    21  a killed worker is detected and replaced: test_supervisor.py, test_container.py
    26  the image agrees with the process, and has the labels that `cog build` writes: test_image.py

An out-of-memory on a GPU (20) is stood in for by another exception of the predictor; it takes a GPU to force one.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from packaged import RECORDED
from PIL import Image
from toy_models import eventually

from harness.errors import SetupFailed
from harness.model_server.client import ModelServer, Outcome, new_prediction_id
from harness.model_server.container import ServerContainer
from harness.model_server.files import data_url, read_output
from harness.model_server.process import ServerProcess
from harness.model_server.receiver import Events, Receiver
from harness.model_server.runtime import Runtime

pytest_plugins = ["docker_fixtures", "packaged_model"]
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

PLACES = ["process", pytest.param("container", marks=pytest.mark.docker)]
GOLDEN = Path(__file__).parents[2] / "golden/openapi_schema.json"
FAST = {"background": "lanczos"}
Start = Callable[..., Runtime]


@dataclass
class Packaged:
    """The model, served; `seen` and `early` are what it answered before it was ready."""

    runtime: Runtime
    server: ModelServer
    http: httpx.AsyncClient
    seen: list[tuple[int, str]] = field(default_factory=list)
    early: list[httpx.Response] = field(default_factory=list)

    async def run(self, img: str, **inputs: Any) -> Outcome:  # noqa: ANN401 - the predictor's own inputs
        return await self.server.run(new_prediction_id(), {"img": img} | FAST | inputs, timeout_s=600)

    async def post(self, inputs: object, **more: Any) -> httpx.Response:  # noqa: ANN401 - JSON
        """POST when the slot is free."""
        while True:
            answer = await self.http.post("/predictions", json={"input": inputs} | more)
            if answer.status_code != 409:
                return answer
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Make runtimes of the model where the test is parametrised to run; not started."""

    def make(weights: Path | None = None, **options: Any) -> Runtime:  # noqa: ANN401 - the runtimes' own
        logs = tmp_path_factory.mktemp("logs") / "server.log"
        if request.param == "container":
            image = request.getfixturevalue("model")
            replica = f"test-{uuid.uuid4().hex[:8]}"
            return ServerContainer(image, logs, replica, weights=weights, environment=RECORDED, **options)
        environment = RECORDED | ({"RESTORATION_WEIGHTS": str(weights)} if weights else {})
        return ServerProcess(request.getfixturevalue("checkout"), logs, environment=environment, **options)

    return make


@pytest.fixture(scope="module")
async def model_here(place: Start, anyio_backend: str) -> AsyncIterator[Packaged]:
    runtime = place()
    await runtime.start()
    try:
        async with (
            ModelServer(runtime.url) as server,
            httpx.AsyncClient(base_url=runtime.url, timeout=600, trust_env=False) as http,
        ):
            here = Packaged(runtime, server, http)
            await watch_it_start(here)
            yield here
    finally:
        await runtime.stop()


async def watch_it_start(here: Packaged) -> None:
    async def step() -> bool:
        try:
            health = await here.http.get("/health-check")
            if health.json()["status"] == "STARTING" and not here.early:
                here.early.append(await here.http.post("/predictions", json={"input": {}}))
        except httpx.TransportError:
            return False  # nothing listens yet
        here.seen.append((health.status_code, health.json()["status"]))
        return here.seen[-1][1] not in ("STARTING", "UNKNOWN")

    await eventually(step, within_s=180)
    assert here.seen[-1][1] == "READY", (await here.server.health()).setup_logs


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small photo without a face."""
    path = tmp_path_factory.mktemp("photo") / "plain.png"
    ramp = np.linspace(0, 255, 48 * 64 * 3).reshape(48, 64, 3).astype(np.uint8)
    Image.fromarray(ramp).save(path)
    return path


@pytest.fixture(scope="session")
def astronaut_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A public-domain photo with one face."""
    from skimage.data import astronaut

    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(astronaut()).save(path)
    return path


def everywhere(test: Any) -> Any:  # noqa: ANN401 - a decorator of any test
    return pytest.mark.parametrize("place", PLACES, indirect=True, scope="module")(test)


def only_in_a_process(test: Any) -> Any:  # noqa: ANN401 - a decorator of any test
    reason = "a container cannot reach this machine's loopback address"
    places = ["process", pytest.param("container", marks=pytest.mark.skip(reason=reason))]
    return pytest.mark.parametrize("place", places, indirect=True, scope="module")(test)


def size_of(output: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(read_output(output)[0])).size


async def begin(here: Packaged, photo: Path, name: str) -> asyncio.Task[Outcome]:
    """Start a prediction that takes a while, and return when it runs."""
    inputs = {"img": data_url(photo), "background": "real-esrgan"}
    task = asyncio.create_task(here.server.run(name, inputs, timeout_s=600))

    async def runs() -> bool:
        return await here.server.logs_of(name) is not None

    await eventually(runs, within_s=180)
    return task


async def drop(task: asyncio.Task[Outcome]) -> None:
    task.cancel()
    await asyncio.wait([task])


@everywhere
async def test_01_discovery_names_the_pinned_version(model_here: Packaged) -> None:
    answer = await model_here.http.get("/")
    assert answer.status_code == 200
    assert answer.json()["predictions_url"] == "/predictions"
    assert answer.json()["cog_version"] == version("cog")


@everywhere
async def test_02_health_goes_from_starting_to_ready_and_names_the_weights(model_here: Packaged) -> None:
    assert {code for code, _ in model_here.seen} == {200}
    assert [status for _, status in model_here.seen][-1] == "READY"
    logs = (await model_here.server.health()).setup_logs
    assert "GFPGANv1.4.pth: sha256 " in logs
    assert "Input validation enabled (1 required fields)" in logs


@everywhere
async def test_03_the_schema_is_the_golden_one(model_here: Packaged) -> None:
    served, golden = await model_here.server.schema(), json.loads(GOLDEN.read_text())
    assert served["components"] == golden["components"]
    assert served["paths"] == golden["paths"]


@everywhere
async def test_04_before_ready_a_prediction_is_503(model_here: Packaged) -> None:
    if not model_here.early:
        pytest.skip("it was ready before it could be asked")
    assert model_here.early[0].status_code == 503
    assert model_here.early[0].json()["error"].startswith("Setup has not finished yet.")


@everywhere
async def test_05_a_photo_with_a_face_comes_back_restored_at_its_scale(
    model_here: Packaged, astronaut_path: Path
) -> None:
    outcome = await model_here.run(data_url(astronaut_path), scale=1.5)
    assert outcome.status == "succeeded", outcome.error
    assert outcome.output.startswith("data:image/png;base64,")
    assert size_of(outcome.output) == (768, 768)
    assert outcome.metrics["faces_restored"] == 1


@only_in_a_process
async def test_06_a_photo_by_url_gives_the_same_bytes(model_here: Packaged, plain: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = plain.read_bytes()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as web:
        url = f"http://127.0.0.1:{web.sockets[0].getsockname()[1]}/plain.png"
        by_url = await model_here.run(url)
    assert by_url.status == "succeeded", by_url.error
    assert by_url.output == (await model_here.run(data_url(plain))).output


@everywhere
async def test_07_a_missing_photo_is_422_and_named(model_here: Packaged) -> None:
    answer = await model_here.post({})
    assert answer.status_code == 422
    assert answer.json()["detail"] == [
        {"loc": ["body", "input", "img"], "msg": "Field required", "type": "value_error.missing"}
    ]


@everywhere
async def test_08_every_wrong_input_is_listed(model_here: Packaged, plain: Path) -> None:
    wrong = {"scale": 99, "strength": "a lot", "version": "v9", "output_quality": 0}
    answer = await model_here.post({"img": data_url(plain)} | wrong)
    assert answer.status_code == 422
    assert {entry["loc"][-1] for entry in answer.json()["detail"]} == set(wrong)


@everywhere
async def test_09_null_is_refused_and_omitted_is_the_default(model_here: Packaged, plain: Path) -> None:
    assert (await model_here.post({"img": data_url(plain), "scale": None})).status_code == 422
    assert size_of((await model_here.run(data_url(plain))).output) == (128, 96)


@everywhere
async def test_10_an_unknown_input_is_ignored(model_here: Packaged, plain: Path) -> None:
    answer = await model_here.post({"img": data_url(plain), "wild": 1} | FAST)
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")


@everywhere
async def test_11_bodies_that_are_no_request_are_refused(model_here: Packaged) -> None:
    async def refused(content: bytes, kind: str) -> int:
        answer = await model_here.http.post("/predictions", content=content, headers={"content-type": kind})
        return answer.status_code

    assert await refused(b"{", "application/json") == 400
    assert await refused(b"{}", "text/plain") == 415
    assert await refused(b'"' + b"x" * (101 << 20) + b'"', "application/json") == 413


@everywhere
@pytest.mark.parametrize(
    "img",
    [
        "data:image/png;base64,aGVsbG8=",
        "data:image/png;base64,",
        "data:image/png;base64,@@@@",
        "truncated",
        "/etc/passwd",
        "file:///etc/passwd",
        "data:xx",
        "http://127.0.0.1:9/x.png",
    ],
)
async def test_12_what_is_no_photo_fails_and_leaks_nothing(model_here: Packaged, plain: Path, img: str) -> None:
    if img == "truncated":
        img = data_url(plain)[:200]
    outcome = await model_here.run(img)
    assert outcome.status == "failed"
    assert outcome.error
    assert outcome.output is None
    assert "root:" not in outcome.error + outcome.logs


@everywhere
async def test_13_a_photo_without_a_face_is_enlarged_all_the_same(model_here: Packaged, plain: Path) -> None:
    outcome = await model_here.run(data_url(plain))
    assert outcome.status == "succeeded"
    assert outcome.metrics["faces_found"] == 0
    assert size_of(outcome.output) == (128, 96)


@only_in_a_process
async def test_14_an_async_prediction_reports_by_webhook(
    model_here: Packaged, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[dict[str, Any]] = []
    monkeypatch.setattr(Events, "take", lambda _, event: heard.append(event))
    async with Receiver(tmp_path) as receiver:
        name = new_prediction_id()
        with receiver.following(name) as sink:
            filtered = {"webhook": sink.request["webhook"], "webhook_events_filter": ["start", "completed"]}
            body = {"id": name, "input": {"img": data_url(plain)} | FAST} | filtered
            answer = await model_here.http.post("/predictions", json=body, headers={"prefer": "respond-async"})
            assert (answer.status_code, answer.json()["status"]) == (202, "starting")
            await eventually(lambda: len(heard) == 2, within_s=60)
    assert heard[0]["status"] == "processing"
    assert heard[1]["status"] == "succeeded"
    assert heard[1]["output"].startswith("data:image/png")
    assert heard[1]["metrics"]["predict_time"] > 0


@everywhere
async def test_15_a_second_one_is_409_while_busy(model_here: Packaged, plain: Path, astronaut_path: Path) -> None:
    first = await begin(model_here, astronaut_path, new_prediction_id())
    answer = await model_here.http.post("/predictions", json={"input": {"img": data_url(plain)}})
    assert (answer.status_code, answer.json()["status"]) == (409, "failed")
    assert (await model_here.server.health()).status == "BUSY"
    await drop(first)
    assert (await model_here.post({"img": data_url(plain)} | FAST)).json()["status"] == "succeeded"


@everywhere
async def test_16_put_with_the_running_id_answers_its_state(model_here: Packaged, astronaut_path: Path) -> None:
    name = new_prediction_id()
    task = await begin(model_here, astronaut_path, name)
    again = await model_here.http.put(f"/predictions/{name}", json={"input": {}})
    assert (again.status_code, again.json()["status"]) == (202, "processing")
    other = await model_here.http.put(f"/predictions/{name}", json={"id": "other", "input": {}})
    assert other.status_code == 422
    await drop(task)


@everywhere
async def test_17_cancel_ends_it_and_the_next_one_works(
    model_here: Packaged, plain: Path, astronaut_path: Path
) -> None:
    name = new_prediction_id()
    task = await begin(model_here, astronaut_path, name)
    assert await model_here.server.cancel(name)
    assert (await task).status == "canceled"
    assert not await model_here.server.cancel(name)
    assert (await model_here.post({"img": data_url(plain)} | FAST)).json()["status"] == "succeeded"


@everywhere
async def test_18_a_client_that_goes_away_cancels_its_prediction(model_here: Packaged, astronaut_path: Path) -> None:
    await drop(await begin(model_here, astronaut_path, new_prediction_id()))

    async def ready() -> bool:
        return (await model_here.server.health()).status == "READY"

    await eventually(ready, within_s=120)  # a network's call into C ends first


@everywhere
async def test_19_50_predictions_give_the_same_bytes_and_no_growth(model_here: Packaged, plain: Path) -> None:
    photo, hashes, memory = data_url(plain), set(), []
    for _ in range(50):
        name = new_prediction_id()
        outcome = await model_here.server.run(name, {"img": photo} | FAST)
        await model_here.runtime.discard(name)
        hashes.add(hashlib.sha256(outcome.output.encode()).hexdigest())
        memory.append(resident_bytes(model_here.runtime))
    assert len(hashes) == 1
    assert memory[-1] - memory[9] < 32 << 20


def resident_bytes(runtime: Runtime) -> int:
    """Memory of a process and its worker; a container's is limited by the engine, and 0 here."""
    if not isinstance(runtime, ServerProcess):
        return 0
    leader = psutil.Process(runtime.pid)
    return sum(process.memory_info().rss for process in (leader, *leader.children(recursive=True)))


@everywhere
async def test_20_an_exception_in_the_predictor_leaves_the_worker_alive(model_here: Packaged, plain: Path) -> None:
    broken = await model_here.run("data:image/png;base64,aGVsbG8=")
    assert broken.status == "failed"
    assert (await model_here.run(data_url(plain))).status == "succeeded"


@everywhere
@pytest.mark.parametrize("damage", ["missing", "corrupt"])
async def test_22_bad_weights_fail_the_setup_and_are_named(
    place: Start, checkout: Path, tmp_path: Path, damage: str
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir(mode=0o755)
    for path in (checkout / "weights").iterdir():
        if path.is_dir():
            continue  # converted models
        if path.name != "GFPGANv1.4.pth":
            shutil.copy(path, weights)
        elif damage == "corrupt":
            with (weights / path.name).open("wb") as file:
                file.truncate(path.stat().st_size)
    runtime = place(weights)
    await runtime.start()
    try:
        async with ModelServer(runtime.url) as server:
            with pytest.raises(SetupFailed, match=r"GFPGANv1\.4\.pth"):
                await server.wait_ready(180)
    finally:
        await runtime.stop()


@everywhere
async def test_23_a_running_prediction_is_answered_before_the_server_ends(place: Start, plain: Path) -> None:
    runtime = place(stop_timeout_s=120)
    await runtime.start()
    try:
        async with ModelServer(runtime.url) as server:
            await server.wait_ready(180)
            name = new_prediction_id()
            task = asyncio.create_task(server.run(name, {"img": data_url(plain), "background": "real-esrgan"}))
            await asyncio.wait([task], timeout=0.3)
            await runtime.stop()
            assert (await task).status == "succeeded"
    finally:
        await runtime.stop()


@only_in_a_process
async def test_24_files_are_uploaded_where_asked(place: Start, plain: Path, tmp_path: Path) -> None:
    async with Receiver(tmp_path) as receiver:
        runtime = place(upload_url=receiver.upload_url)
        await runtime.start()
        try:
            async with ModelServer(runtime.url, receiver) as server:
                await server.wait_ready(180)
                outcome = await server.run(new_prediction_id(), {"img": data_url(plain)} | FAST)
            content, suffix = read_output(outcome.output, tmp_path)
        finally:
            await runtime.stop()
    assert suffix == ".png"
    assert Image.open(io.BytesIO(content)).size == (128, 96)


@everywhere
async def test_25_metrics_are_typed_and_logs_show_progress(model_here: Packaged, plain: Path) -> None:
    pieces: list[str] = []
    inputs = {"img": data_url(plain)} | FAST
    outcome = await model_here.server.run(new_prediction_id(), inputs, on_logs=pieces.append)
    assert outcome.metrics["faces_found"] == 0
    assert (outcome.metrics["width"], outcome.metrics["height"]) == (128, 96)
    assert outcome.metrics["device"] == "cpu"
    assert all(isinstance(seconds, float) for seconds in outcome.metrics["seconds"].values())
    assert "decode: " in outcome.logs
    assert "encode: " in outcome.logs
    assert "".join(pieces) == outcome.logs

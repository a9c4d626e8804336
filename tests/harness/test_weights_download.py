"""Downloads of hundreds of megabytes fail in every way there is; none may leave a wrong file, or lose what had arrived.

Everything runs against a real HTTP server on this machine, which misbehaves as the test tells it to.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.download import MIRROR, Patience
from harness.errors import UsageError, WeightsDownloadError
from harness.weights import app, fetch, select
from restoration.errors import WeightsError
from restoration.weights import WeightFile, Weights, write_manifest

CONTENT = bytes(range(256)) * 40
OTHER = CONTENT[::-1]
NAME = "GFPGANv1.4.pth"
QUICK = Patience(attempts=3, first_wait_s=0.001, stall_s=5)
ROOT = Path(__file__).parents[2]


class Handler(BaseHTTPRequestHandler):
    server: UnreliableServer

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.seen.append((name, self.headers.get("Range")))
        behaviours = self.server.behaviours.get(name)
        (behaviours.pop(0) if behaviours else honest())(self)

    def begin(self) -> int:
        """Where the client wants the body to start."""
        return int(re.sub(r"\D", "", self.headers.get("Range", "")) or 0)

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class UnreliableServer(ThreadingHTTPServer):
    """Serves CONTENT under every name; `behaviours[name]` are played first, one a request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours: dict[str, list[Behaviour]] = {}
        self.seen: list[tuple[str, str | None]] = []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/files"

    def ranges(self) -> list[str | None]:
        return [wanted for _, wanted in self.seen]

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients that hang up are what is tested
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # typeshed's private socket type


Behaviour = Callable[[Handler], None]


def honest(content: bytes = CONTENT, length: int | None = None) -> Behaviour:
    """Answer as a good server does; with `length`, send no more than that many bytes and hang up."""

    def answer(handler: Handler) -> None:
        start = handler.begin()
        body, sent = content[start:], content[start:][:length]
        status, headers = 200, {"Content_Length": str(len(body))}
        if start:
            status, headers["Content_Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.reply(status, sent, **headers)

    return answer


def without_ranges(length: int | None = None) -> Behaviour:
    return lambda handler: handler.reply(200, CONTENT[:length], Content_Length=str(len(CONTENT)))


def status(code: int, **headers: str) -> Behaviour:
    return lambda handler: handler.reply(code, b"<html>no</html>", **headers)


def claiming(length: int, body: bytes = CONTENT) -> Behaviour:
    return lambda handler: handler.reply(200, body, Content_Length=str(length))


def unstated(body: bytes) -> Behaviour:
    """HTTP/1.0 without a Content-Length: the body ends where the connection does."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def stalling(length: int) -> Behaviour:
    def answer(handler: Handler) -> None:
        honest(length=length)(handler)
        handler.wfile.flush()
        handler.server.released.wait(60)

    return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[UnreliableServer]:
    with UnreliableServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv(MIRROR, server.url)
        monkeypatch.setenv("NO_PROXY", "*")
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def listed(name: str = NAME, *, size: int | None = len(CONTENT), needs: tuple[str, ...] = ("default",)) -> WeightFile:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return WeightFile(name, digest, "MIT", size_bytes=size, url=f"https://host.example/{name}", needed_for=needs)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_manifest(tmp_path, [listed()])
    return tmp_path


def assert_intact(directory: Path, *names: str) -> None:
    for name in names or (NAME,):
        assert (directory / name).read_bytes() == CONTENT
        assert not (directory / f"{name}.part").exists()


def assert_nothing(directory: Path) -> None:
    assert not (directory / NAME).exists()


# --- what heals by itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviours", "ranges"),
    [
        pytest.param([], [None], id="a good server"),
        pytest.param([honest(length=4000)], [None, "bytes=4000-"], id="cut"),
        pytest.param([honest(length=0), honest(length=0)], [None, None, None], id="cut before the first byte"),
        pytest.param([unstated(CONTENT[:4000])], [None, "bytes=4000-"], id="ended early without a stated length"),
        pytest.param([unstated(CONTENT)], [None], id="no stated length"),
        pytest.param([honest(length=4000), without_ranges()], [None, "bytes=4000-"], id="ranges ignored"),
        pytest.param([honest(length=4000), status(416)], [None, "bytes=4000-", None], id="416"),
        pytest.param([status(500), status(503)], [None, None, None], id="500"),
        pytest.param([status(302, Location="/elsewhere/GFPGANv1.4.pth")], [None, None], id="redirect"),
        pytest.param(
            [honest(length=4000), status(302, Location="/elsewhere/GFPGANv1.4.pth")],
            [None, "bytes=4000-", "bytes=4000-"],
            id="redirect of the rest",
        ),
        pytest.param(
            [
                honest(length=4000),
                lambda handler: handler.reply(206, CONTENT[5000:], Content_Range="bytes 5000-10239/10240"),
            ],
            [None, "bytes=4000-", None],
            id="another range than the one asked for",
        ),
        pytest.param(
            [honest(OTHER, length=4000)], [None, "bytes=4000-", None], id="the file changed between two pieces"
        ),
    ],
)
def test_trouble_that_passes(
    server: UnreliableServer, directory: Path, behaviours: list[Behaviour], ranges: list[str | None]
) -> None:
    server.behaviours[NAME] = list(behaviours)
    assert fetch(directory, [NAME], patience=QUICK) == [directory / NAME]
    assert_intact(directory)
    assert server.ranges() == ranges


def test_a_stalled_server_is_left_and_its_bytes_are_kept(server: UnreliableServer, directory: Path) -> None:
    server.behaviours[NAME] = [stalling(4000)]
    fetch(directory, [NAME], patience=Patience(first_wait_s=0.001, stall_s=0.5))
    assert_intact(directory)
    assert server.ranges() == [None, "bytes=4000-"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(CONTENT)), max_size=8), st.booleans())
@example([len(CONTENT)], True)
def test_wherever_it_is_cut_the_file_ends_up_intact(cuts: list[int], with_ranges: bool) -> None:
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as directory,
        UnreliableServer() as server,
    ):
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        patch.setenv(MIRROR, server.url)
        write_manifest(Path(directory), [listed()])
        server.behaviours[NAME] = [honest(length=cut) if with_ranges else without_ranges(cut) for cut in cuts]
        try:
            fetch(Path(directory), [NAME], patience=Patience(attempts=len(cuts) + 1, first_wait_s=0))
        finally:
            server.shutdown()
            thread.join()
        assert_intact(Path(directory))


def test_a_server_that_brings_a_little_each_time_is_never_given_up(server: UnreliableServer, directory: Path) -> None:
    server.behaviours[NAME] = [honest(length=1000)] * 10  # many more than QUICK's attempts
    fetch(directory, [NAME], patience=QUICK)
    assert_intact(directory)


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_waited_for(server: UnreliableServer, directory: Path, as_date: bool) -> None:
    started = time.monotonic()
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server.behaviours[NAME] = [status(429, Retry_After=moment if as_date else "1")]
    fetch(directory, [NAME], patience=QUICK)
    assert_intact(directory)
    assert time.monotonic() - started > 0.9  # a lower bound: sleeping cannot be too short on a slow machine


@pytest.mark.parametrize("value", ["", "soon", "-1", "9" * 400, "Thu, 01 Jan 2026 00:00:00 +99999999999999"])
def test_a_senseless_retry_after_is_ignored(server: UnreliableServer, directory: Path, value: str) -> None:
    server.behaviours[NAME] = [status(503, Retry_After=value)]
    fetch(directory, [NAME], patience=QUICK)
    assert_intact(directory)


# --- what must fail, with a sentence ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "sentence", "requests"),
    [
        pytest.param(
            honest(OTHER), f"sha256 {hashlib.sha256(OTHER).hexdigest()}, expected {listed().sha256}", 1, id="wrong"
        ),
        pytest.param(
            claiming(500, CONTENT[:500]), "offers 500 bytes for GFPGANv1.4.pth, expected 10240", 1, id="too small"
        ),
        pytest.param(claiming(20480), "offers 20480 bytes for GFPGANv1.4.pth, expected 10240", 1, id="too big"),
        pytest.param(unstated(CONTENT + b"!"), "more than 10240 bytes for GFPGANv1.4.pth", 1, id="too much"),
        pytest.param(status(404), "answered 404 Not Found", 1, id="404"),
        pytest.param(status(500), "it answered 500", 3, id="500"),
        pytest.param(status(429, Retry_After="3600"), "asks to wait 3600 s", 1, id="429 for an hour"),
        pytest.param(status(302, Location="/loop/GFPGANv1.4.pth"), "redirect", 21, id="redirects in a circle"),
    ],
)
def test_trouble_that_stays(
    server: UnreliableServer, directory: Path, behaviour: Behaviour, sentence: str, requests: int
) -> None:
    server.behaviours[NAME] = [behaviour] * 50
    with pytest.raises(WeightsDownloadError) as caught:
        fetch(directory, [NAME], patience=QUICK)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(f"Not fetched: {NAME}; ")
    assert len(server.seen) == requests
    assert_nothing(directory)


def test_wrong_content_is_not_continued_the_next_time(server: UnreliableServer, directory: Path) -> None:
    server.behaviours[NAME] = [honest(OTHER)]
    with pytest.raises(WeightsDownloadError, match=MIRROR):
        fetch(directory, [NAME], patience=QUICK)
    assert not (directory / f"{NAME}.part").exists()
    fetch(directory, [NAME], patience=QUICK)
    assert_intact(directory)
    assert server.ranges() == [None, None]


def test_pieces_of_wrong_content_are_fetched_afresh_only_once(server: UnreliableServer, directory: Path) -> None:
    server.behaviours[NAME] = [honest(OTHER, length=9000), honest(OTHER)] * 5
    with pytest.raises(WeightsDownloadError, match="discarded"):
        fetch(directory, [NAME], patience=QUICK)
    assert len(server.seen) == 4


def test_a_file_that_fails_does_not_stop_the_others(server: UnreliableServer, tmp_path: Path) -> None:
    names = [f"file{number}.pth" for number in range(8)]
    write_manifest(tmp_path, map(listed, names))
    server.behaviours["file1.pth"] = [status(404)]
    with pytest.raises(WeightsDownloadError, match=r"^Not fetched: file1\.pth; 127"):
        fetch(tmp_path, names, patience=QUICK)
    assert_intact(tmp_path, *(name for name in names if name != "file1.pth"))


def test_a_directory_that_cannot_be_written_is_named(server: UnreliableServer, directory: Path) -> None:
    (directory / f"{NAME}.part").mkdir()
    with pytest.raises(WeightsDownloadError, match=rf"{directory} cannot be written \(Is a directory\)"):
        fetch(directory, [NAME], patience=QUICK)


def test_a_file_without_an_address_is_not_looked_for_on_a_mirror(server: UnreliableServer, tmp_path: Path) -> None:
    write_manifest(tmp_path, [WeightFile(NAME, "0" * 64, "MIT")])
    with pytest.raises(WeightsDownloadError, match="no address"):
        fetch(tmp_path, [NAME])
    assert server.seen == []


@pytest.mark.parametrize(
    "mirror",
    ["ftp://host.example", "host.example", "http://", "http://host.example:port", "http://me:secret@host.example"],
)
def test_a_senseless_mirror_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, directory: Path, mirror: str
) -> None:
    monkeypatch.setenv(MIRROR, mirror)
    with pytest.raises(WeightsDownloadError, match=f"{MIRROR} must be an address like") as caught:
        fetch(directory, [NAME])
    assert "secret" not in str(caught.value)


# --- what is there already --------------------------------------------------------------------------------------------


def test_intact_files_are_not_asked_for(server: UnreliableServer, directory: Path) -> None:
    (directory / NAME).write_bytes(CONTENT)
    assert fetch(directory, [NAME, NAME]) == [directory / NAME]
    assert server.seen == []


def test_a_corrupt_file_is_replaced(server: UnreliableServer, directory: Path) -> None:
    (directory / NAME).write_bytes(OTHER)
    fetch(directory, [NAME])
    assert_intact(directory)


@pytest.mark.parametrize("stale", [OTHER, OTHER[:100], CONTENT * 2], ids=["full", "begun", "too long"])
def test_a_part_of_something_else_does_no_harm(server: UnreliableServer, directory: Path, stale: bytes) -> None:
    (directory / f"{NAME}.part").write_bytes(stale)
    server.behaviours[NAME] = [status(416)] if len(stale) > len(CONTENT) else []
    fetch(directory, [NAME], patience=QUICK)
    assert_intact(directory)


def test_a_fetched_file_is_remembered_as_verified(server: UnreliableServer, directory: Path) -> None:
    fetch(directory, [NAME])
    assert NAME in (directory / ".verified.json").read_text()


@pytest.mark.parametrize("behaviours", [[], [honest(length=4000)]])
def test_without_a_size_in_the_manifest_the_server_is_asked_for_it(
    server: UnreliableServer, tmp_path: Path, behaviours: list[Behaviour]
) -> None:
    write_manifest(tmp_path, [listed(size=None)])
    server.behaviours[NAME] = list(behaviours)
    fetch(tmp_path, [NAME], patience=QUICK)
    assert_intact(tmp_path)


def test_without_any_size_there_is_still_a_limit(
    server: UnreliableServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.download._UNSTATED_LIMIT", len(CONTENT) - 1)
    write_manifest(tmp_path, [listed(size=None)])
    server.behaviours[NAME] = [unstated(CONTENT)]
    with pytest.raises(WeightsDownloadError, match=f"more than {len(CONTENT) - 1} bytes"):
        fetch(tmp_path, [NAME], patience=QUICK)


# --- several processes, and the end of one ----------------------------------------------------------------------------

PROGRAM = [sys.executable, "-c", "from harness.weights import app; app()", "fetch", "--directory"]


def start(directory: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*PROGRAM, str(directory)], env=environment, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [(signal.SIGKILL, -signal.SIGKILL, ""), (signal.SIGINT, 130, "Interrupted: the same command")],
)
def test_a_killed_download_continues_where_it_was(
    server: UnreliableServer, directory: Path, number: signal.Signals, code: int, says: str
) -> None:
    server.behaviours[NAME] = [stalling(6000)]
    part = directory / f"{NAME}.part"
    with start(directory) as process:
        wait_until(lambda: part.exists() and part.stat().st_size > 0)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code
        assert says in errors
        assert "Traceback" not in errors
    there = part.stat().st_size
    assert_nothing(directory)
    fetch(directory, [NAME], patience=QUICK)
    assert_intact(directory)
    assert server.ranges() == [None, f"bytes={there}-"]


def test_two_processes_fetch_a_file_once(server: UnreliableServer, directory: Path) -> None:
    def slow(handler: Handler) -> None:
        handler.server.released.wait(60)
        honest()(handler)

    server.behaviours[NAME] = [slow]
    with start(directory) as first, start(directory) as second:
        wait_until(lambda: len(server.seen) > 0)
        server.released.set()
        for process in (first, second):
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
    assert_intact(directory)
    assert len(server.seen) == 1


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    monkeypatch.setattr("harness.weights.Patience", lambda: QUICK)

    def run(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
        return result.exit_code, result.output

    return run


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def several(tmp_path: Path) -> Path:
    write_manifest(
        tmp_path,
        [
            listed("default.pth", needs=("default", "v1.3", "v1.4")),
            listed("old.pth", needs=("v1.3",)),
            listed("optional.pth", needs=()),
        ],
    )
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "fetched"),
    [
        ([], {"default.pth"}),
        (["optional.pth"], {"optional.pth"}),
        (["--version", "v1.3"], {"default.pth", "old.pth"}),
        (["--version", "v1.4", "optional.pth"], {"default.pth", "optional.pth"}),
        (["--all"], {"default.pth", "old.pth", "optional.pth"}),
    ],
)
def test_fetch_takes_what_is_asked_for(
    server: UnreliableServer, several: Path, run: Run, arguments: list[str], fetched: set[str]
) -> None:
    code, output = run("fetch", "--directory", several, *arguments)
    assert code == 0, output
    assert {path.name for path in several.glob("*.pth")} == fetched
    assert all(f"{name}: intact" in output for name in fetched)


def test_unknown_wishes_are_answered_with_what_is_known(several: Path) -> None:
    with pytest.raises(UsageError, match=r"'v9'; the manifest knows default, v1\.3, v1\.4"):
        select(Weights(several), version="v9")
    with pytest.raises(WeightsError, match=r"lists default\.pth, old\.pth, optional\.pth"):
        select(Weights(several), ["../old.pth"])


def test_an_offline_machine_gets_one_sentence(monkeypatch: pytest.MonkeyPatch, directory: Path, run: Run) -> None:
    with UnreliableServer() as closed:
        monkeypatch.setenv(MIRROR, closed.url)
    monkeypatch.setenv("NO_PROXY", "*")
    code, output = run("fetch", "--directory", directory)
    assert code == 1
    assert output == (
        f"Not fetched: {NAME}; 127.0.0.1 cannot be reached: check the network connection, "
        f"or set {MIRROR} to the address of a mirror\n"
    )


def test_a_directory_without_a_manifest_gets_one_sentence(tmp_path: Path, run: Run) -> None:
    for command in ("fetch", "verify", "list"):
        code, output = run(command, "--directory", tmp_path)
        assert code == 1
        assert "manifest.toml does not exist" in output
        assert output.count("\n") == 1


def test_verify_fails_for_missing_default_files_and_for_corrupt_ones(several: Path, run: Run) -> None:
    assert run("verify", "--directory", several)[0] == 1
    (several / "default.pth").write_bytes(CONTENT)
    code, output = run("verify", "--directory", several)
    assert code == 0
    assert "default.pth: intact" in output
    (several / "optional.pth").write_bytes(OTHER)
    code, output = run("verify", "--directory", several)
    assert code == 1
    assert "Not usable: optional.pth" in output


def test_list_shows_the_committed_licences(run: Run) -> None:
    code, output = run("list", "--directory", ROOT / "weights")
    assert code == 0
    row = next(line for line in output.splitlines() if "RealESRGAN_x2plus.pth" in line)
    assert "67061725" in row
    assert "BSD-3-Clause" in row

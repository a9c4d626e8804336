"""Downloads of hundreds of megabytes fail in every way there is; none may leave a wrong file, or lose what had arrived.

Everything runs against a real HTTP server on this machine, which misbehaves as the test tells it to.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from unreliable_server import (
    CONTENT,
    NAME,
    QUICK,
    Behaviour,
    Handler,
    UnreliableServer,
    claiming,
    honest,
    listed,
    stalling,
    status,
    unstated,
    without_ranges,
)

from harness.download import MIRROR, Patience
from harness.errors import WeightsDownloadError
from harness.weights import fetch
from restoration.weights import WeightFile, write_manifest

pytest_plugins = ["weights_fixtures"]

OTHER = CONTENT[::-1]
ROOT = Path(__file__).parents[2]


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

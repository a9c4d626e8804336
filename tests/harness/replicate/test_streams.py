"""Event streams, as the clients read them: without credentials, from any moment of a prediction's life."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from replicate_in_thread import Model, replicate
from replicate_processes import until

from harness.errors import InputRejected

Event = tuple[str, str]


def events(url: str) -> list[Event]:
    """All events of a stream, to its end."""
    found: list[Event] = []
    headers = {"Accept": "text/event-stream"}
    with httpx.stream("GET", url, headers=headers, trust_env=False, timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for block in "".join(answer.iter_text()).replace("\r\n", "\n").split("\n\n"):
            lines = [line.partition(": ") for line in block.splitlines() if not line.startswith(":")]
            if lines:
                fields = {name: value for name, _, value in lines}
                assert fields["id"]
                data = "\n".join(value for name, _, value in lines if name == "data")
                found.append((fields["event"], data))
    return found


def test_a_stream_tells_logs_output_and_the_end(tmp_path: Path) -> None:
    model = Model(holds=True)
    with replicate(tmp_path, model) as server:
        urls = server.create().json()["urls"]
        assert "/v1/files/stream-" in urls["stream"]  # where the JavaScript client expects streams of files
        until(lambda: server.get(urls["get"]).json()["logs"])
        model.released.set()
        told = events(urls["stream"])
        assert "".join(data for event, data in told if event == "logs").replace("\n", "") == "lookingfound"
        output = server.ended(urls["get"].rpartition("/")[2])["output"]
        assert told[-2:] == [("output", output), ("done", "{}")]


def test_a_stream_opened_after_the_end_tells_it_all(tmp_path: Path) -> None:
    with replicate(tmp_path) as server:
        made = server.create(headers={"Prefer": "wait"}).json()
        assert [event for event, _ in events(made["urls"]["stream"])] == ["logs", "output", "done"]


def test_a_failure_and_a_cancellation_end_the_stream_with_their_reason(tmp_path: Path) -> None:
    with replicate(tmp_path, Model(losses=[InputRejected("scale is wrong")])) as server:
        failed = events(server.create(headers={"Prefer": "wait"}).json()["urls"]["stream"])
        assert [event for event, _ in failed] == ["error", "done"]
        assert "scale is wrong" in failed[0][1]
        assert json.loads(failed[1][1]) == {"reason": "error"}
    with replicate(tmp_path, Model(holds=True)) as server:
        made = server.create().json()
        server.post(made["urls"]["cancel"])
        assert json.loads(events(made["urls"]["stream"])[-1][1]) == {"reason": "canceled"}


@pytest.mark.parametrize("change", [lambda url: url[:-1], lambda url: url[:-26] + "0" * 26, lambda url: url + "0"])
def test_a_stream_needs_its_whole_url(tmp_path: Path, change: object) -> None:
    with replicate(tmp_path) as server:
        url = server.create().json()["urls"]["stream"]
        assert callable(change)
        assert httpx.get(change(url), trust_env=False).status_code == 404

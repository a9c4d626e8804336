"""Weights to be fetched: a server that has them, and a directory that lists one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from unreliable_server import UnreliableServer, listed

from harness.download import MIRROR
from restoration.weights import write_manifest


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


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A weights directory that lists one file and holds none."""
    write_manifest(tmp_path, [listed()])
    return tmp_path

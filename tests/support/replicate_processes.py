"""Processes of the local Replicate and of an instant model server, which tests start and kill."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx

ROOT = Path(__file__).parents[2]


def until(condition: Callable[[], object], timeout_s: float = 30) -> None:
    """Wait for `condition`; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to be within {timeout_s} s"
        time.sleep(0.02)


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Killable:
    """A server process on a port of its own that answers at `path` when it is up."""

    path = "/"

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The command that starts it."""
        raise NotImplementedError

    def spawn(self) -> None:
        """Start the process, unless it runs, without waiting for it."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen([sys.executable, *self.command()], cwd=ROOT)

    def start(self) -> None:
        """Start the process, unless it runs, and wait until it answers."""
        self.spawn()
        until(self._answers, 60)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.command()} ended with {self.process.returncode}"
        try:
            return httpx.get(self.url + self.path, trust_env=False).status_code < 500
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class InstantModelServer(Killable):
    """scripts/instant_model_server.py."""

    path = "/health-check"

    def __init__(self, *, delay_s: float, starts: Path) -> None:
        super().__init__()
        self._options = ["--delay", str(delay_s), "--starts", str(starts)]

    def command(self) -> list[str]:
        return ["scripts/instant_model_server.py", "--port", str(self.port), *self._options]


class LocalReplicate(Killable):
    """`harness serve` in front of model servers that run already."""

    path = "/v1/hardware"

    def __init__(self, data: Path, *model_urls: str, options: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._data = data
        self._models = model_urls
        self._options = options

    def command(self) -> list[str]:
        models = [word for url in self._models for word in ("--model-server", url)]
        own = ["--data", str(self._data), "--port", str(self.port)]
        return ["-m", "harness", "serve", *own, *models, *self._options]

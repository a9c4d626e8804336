"""What a place to run a model server must offer, so that nothing above cares whether it is a process or a container."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from harness.errors import HarnessError


class Runtime(Protocol):
    """One model server that can be started, watched and stopped again and again."""

    @property
    def name(self) -> str:
        """What a person would call it, for messages: "process 4711", "container gfpgan-3f2a"."""

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end; known once started, and it may change with every start."""

    @property
    def logs(self) -> Path:
        """The file that its own output is appended to, across restarts."""

    async def start(self) -> None:
        """Start it and return without waiting for READY; what an earlier start left behind is gone first.

        Raises:
            HarnessError: it cannot be started; nothing is left behind then.
        """

    async def stop(self) -> None:
        """End it, its worker included, within a bounded time; harmless when it has ended already.

        Raises:
            HarnessError: whatever runs it refused.
        """

    async def alive(self) -> bool:
        """Return whether its server process exists; a READY server is more than that. Raises HarnessError."""

    async def diagnosis(self) -> HarnessError | None:
        """Say why the server, or the worker in it, died, as far as this place to run it knows; else None."""

    async def discard(self, prediction_id: str) -> None:
        """Remove the scratch files that Cog keeps of a finished prediction; harmless when there are none."""

    async def sweep(self) -> None:
        """Remove those of predictions that somebody else sent, once they are old; called while the server is idle."""

    async def peak_bytes(self) -> int:
        """Return the peak resident memory of the server and its worker, each at its own peak.

        Raises:
            HarnessError: it does not run.
        """


def peak_of(status: str) -> int:
    """Return the bytes of peak memory that Linux tells of processes: `status` is what /proc/PID/status says of each."""
    return 1024 * sum(int(kilobytes) for kilobytes in re.findall(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE))


def last_lines(logs: Path, count: int = 20) -> str:
    """Return the end of a log file, at most `count` lines; empty when there is no such file."""
    try:
        with logs.open("rb") as file:
            file.seek(max(0, logs.stat().st_size - 64 * 1024))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-count:])

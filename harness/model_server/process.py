"""A model server without Docker: Cog's own server as a child process of the harness."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from harness.errors import Crashed, ModelServerError, SchemaError
from harness.model_server.runtime import peak_of

SWEEP_AGE_S: Final = 3600.0  # a prediction of another server may well be running
COG_SCRATCH: Final = Path("/tmp/coglet/predictions")  # noqa: S108 - coglet's own constant; it ignores TMPDIR
SCHEMA: Final = Path(".cog/openapi_schema.json")
SCHEMA_TIMEOUT_S: Final = 120.0  # importing a predictor may import torch, on a busy machine
_CHILD: Final = Path(__file__).with_name("process_child.py")
_HARNESS: Final = Path(__file__).parents[2]  # so that `-m harness.schema` is found from any directory


@dataclass
class ServerProcess:
    """Cog's server for the predictor in `root`, started with this Python; a `Runtime`.

    root: directory of predict.py (the server's working directory).
    logs: file that the server's output is appended to.
    predictor: "file.py:Class", as in cog.yaml.
    port: a fixed port, or 0 for a free one at every start.
    environment: variables added to (and winning over) the harness's own.
    setup_timeout_s: how long setup may take before Cog itself reports SETUP_FAILED.
    stop_timeout_s: how long a running prediction may finish in `stop()` before everything is killed.
    upload_url: where output files are PUT instead of becoming data URLs.
    """

    root: Path
    logs: Path
    predictor: str = "predict.py:Predictor"
    port: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    setup_timeout_s: float = 600.0
    stop_timeout_s: float = 10.0
    upload_url: str | None = None
    _child: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _lifeline: int = field(default=-1, init=False, repr=False)
    temporary: Path | None = field(default=None, init=False, repr=False)
    _port_now: int = field(default=0, init=False, repr=False)

    @property
    def name(self) -> str:
        """ "process" with the server's process id once it has been started."""
        return f"process {self._child.pid}" if self._child else "process"

    @property
    def url(self) -> str:
        """Where the server answers, on the loopback address only."""
        return f"http://127.0.0.1:{self._port_now}"

    @property
    def pid(self) -> int | None:
        """The server's process id, which is also its process group's; None before the first start."""
        return self._child.pid if self._child else None

    async def start(self) -> None:
        """Start the server; returns before it is ready.

        Raises:
            ModelServerError: the port is taken.
            SchemaError: the predictor is not there, cannot be imported, or cannot be described.
        """
        await self.stop()
        await self._write_schema()
        self._port_now = _free_port(self.port)
        self.temporary = Path(tempfile.mkdtemp(prefix="model-server-"))
        self._spawn()

    async def stop(self) -> None:
        """Ask the server to end, wait `stop_timeout_s`, then kill its whole process group."""
        if self._child is None:
            return
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            await self._wait(self.stop_timeout_s)
        await self._kill()

    async def alive(self) -> bool:
        """Return whether the server process runs."""
        return self._child is not None and self._child.poll() is None

    async def diagnosis(self) -> ModelServerError | None:
        """Say how the server's process ended by itself; of a worker's death only Cog knows, not the reason."""
        code = self._child.poll() if self._child else None
        if code is None:
            return None
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Crashed(f"{self.name} {how}; its log is {self.logs}.")

    async def discard(self, prediction_id: str) -> None:
        """Remove what Cog left of a finished prediction; it never does so itself."""
        await asyncio.to_thread(shutil.rmtree, COG_SCRATCH / prediction_id, ignore_errors=True)

    async def sweep(self) -> None:
        """Remove what Cog left of others' predictions an hour ago: every native server writes to the same place."""
        await asyncio.to_thread(_remove_older, COG_SCRATCH, time.time() - SWEEP_AGE_S)

    async def peak_bytes(self) -> int:
        """Sum up the peaks; where the system keeps none (only Linux does), what is resident now. Raises Crashed."""
        try:
            return await asyncio.to_thread(_peak_bytes, self.pid)
        except psutil.NoSuchProcess as error:
            raise Crashed(f"{self.name} has ended; its log is {self.logs}.") from error

    async def _write_schema(self) -> None:
        """Write the schema that Cog validates by: without the file it would take anything.

        In a process of its own, because describing a predictor imports it.
        """
        new = self.root / SCHEMA.with_suffix(f".{uuid.uuid4().hex}")  # replicas start at the same time
        writer = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "harness.schema", "--predictor", self.predictor),
            *("--root", str(self.root), "--output", str(new)),
            env=os.environ | _importing_harness() | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        complaint = await _complaint(writer)
        if writer.returncode != 0:
            lines = complaint.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise SchemaError(f"The model cannot be served: {lines[-1].removeprefix('SCHEMA: ')}")
        new.replace(self.root / SCHEMA)

    def _spawn(self) -> None:
        reading, self._lifeline = os.pipe()
        command = [sys.executable, "-P", str(_CHILD), str(reading), str(self.temporary), "--host", "127.0.0.1"]
        if self.upload_url is not None:
            command += ["--upload-url", self.upload_url]
        self.logs.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.logs.open("ab") as output:
                self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                    command,
                    cwd=self.root,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[reading],
                    start_new_session=True,  # its own process group; a Ctrl-C in the terminal is ours to handle
                )
        finally:
            os.close(reading)

    def _environment(self) -> dict[str, str]:
        own = {
            # Cog starts its worker as plain `python`
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PORT": str(self._port_now),
            "COG_PREDICT_TYPE_STUB": self.predictor,
            "COG_SETUP_TIMEOUT": str(max(1, round(self.setup_timeout_s))),
            "LOG_FORMAT": "console",
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.temporary),
        }
        return os.environ | own | self.environment

    async def _kill(self) -> None:
        assert self._child is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)  # the worker too, also when the server has gone already
        await self._wait(self.stop_timeout_s)
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if self.temporary is not None:
            await asyncio.to_thread(shutil.rmtree, self.temporary, ignore_errors=True)

    async def _wait(self, timeout_s: float) -> None:
        assert self._child is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._child.wait, timeout_s)


def _importing_harness() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(_HARNESS), os.environ.get("PYTHONPATH")]))}


async def _complaint(child: asyncio.subprocess.Process) -> bytes:
    """Wait for the schema's writer; returns what it wrote to stderr. Raises SchemaError when it does not end."""
    try:
        _, complaint = await asyncio.wait_for(child.communicate(), SCHEMA_TIMEOUT_S)
    except TimeoutError as error:
        raise SchemaError(
            f"Importing the predictor took more than {SCHEMA_TIMEOUT_S:g} s; move work to setup()."
        ) from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return complaint


def _remove_older(directory: Path, time_s: float) -> None:
    with contextlib.suppress(FileNotFoundError):
        for each in directory.iterdir():
            if each.lstat().st_mtime < time_s:
                shutil.rmtree(each, ignore_errors=True)


def _peak_bytes(pid: int | None) -> int:
    if pid is None:
        raise psutil.NoSuchProcess(0)
    server = psutil.Process(pid)
    return sum(_peak(process) for process in [server, *server.children(recursive=True)])


def _peak(process: psutil.Process) -> int:
    with contextlib.suppress(FileNotFoundError):
        return peak_of(Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8"))
    return int(process.memory_info().rss)


def _free_port(wish: int) -> int:
    """Return `wish` if nobody listens there, and any free port for 0. Raises ModelServerError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server itself does
        try:
            probe.bind(("127.0.0.1", wish))
        except OSError as error:
            raise ModelServerError(f"Port {wish} is taken by another program; choose another one.") from error
        port: int = probe.getsockname()[1]
        return port

"""What the local Replicate itself costs: latency, throughput, listing, memory and uploads, with an instant model.

Starts an instant model server and a local Replicate with a store of their own, measures, and removes both. The targets
are for 2 cores that do nothing else; the load comes from the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
VERSION = "9283608cc6b7be6b65a8e44983db012355fde4132009bf99d976b2f0896856a3"
BODY = {"version": VERSION, "input": {"img": "data:image/png;base64,iVBORw0KGgo="}}
HEADERS = {"Authorization": "Bearer r8_local"}
MIB = 1024 * 1024


@dataclass(frozen=True)
class Figure:
    """One measured value and its target, both in `unit`."""

    name: str
    value: float
    unit: str
    target: float
    more_is_better: bool = False

    @property
    def met(self) -> bool:
        """Whether the target was reached."""
        return self.value >= self.target if self.more_is_better else self.value <= self.target


@contextmanager
def process(*command: object) -> Iterator[psutil.Process]:
    """Run a Python process for the block."""
    words = [sys.executable, *map(str, command)]
    child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)  # noqa: S603 - our own programs
    try:
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        child.wait(30)


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_for(url: str) -> None:
    """Return when something answers at `url`; raises TimeoutError after a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            httpx.get(url, trust_env=False)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise TimeoutError(f"nothing answers at {url}")


def p95(values: list[float]) -> float:
    """The 95th percentile."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


async def timed(count: int, call: Callable[[], Awaitable[httpx.Response]]) -> list[float]:
    """Milliseconds of each of `count` calls, one after the other."""
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        (await call()).raise_for_status()
        taken.append((time.perf_counter() - start) * 1000)
    return taken


async def create_again_and_again(host: str, port: int, turns: Iterator[int]) -> None:
    """Create one prediction a turn, over one connection; httpx would cost more than the server that it loads."""
    body = json.dumps(BODY).encode()
    fields = {"Host": f"{host}:{port}", **HEADERS, "Content-Type": "application/json", "Content-Length": len(body)}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    request = f"POST /v1/predictions HTTP/1.1\r\n{head}\r\n".encode() + body
    reader, writer = await asyncio.open_connection(host, port)
    for _ in turns:
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        if b" 201 " not in answer.splitlines()[0]:
            raise RuntimeError(f"expected 201 Created, got {answer.decode()}")
        await reader.readexactly(int(answer.lower().split(b"content-length:")[1].split()[0]))
    writer.close()


class Bench:
    """The measurements, each against the same running local Replicate."""

    def __init__(self, http: httpx.AsyncClient, server: psutil.Process) -> None:
        self._http = http
        self._server = server

    async def create_to_succeeded(self, count: int) -> Figure:
        """One client that waits for each prediction."""
        waiting = {"Prefer": "wait"}
        await timed(20, lambda: self._http.post("/predictions", json=BODY, headers=waiting))  # warm up
        taken = await timed(count, lambda: self._http.post("/predictions", json=BODY, headers=waiting))
        return Figure("create to succeeded, 1 client, 95th percentile", p95(taken), "ms", 60)

    async def created_per_second(self, count: int, clients: int) -> Figure:
        """Many clients that only create; what they created runs meanwhile."""
        start = time.perf_counter()
        await self._create(count, clients)
        rate = count / (time.perf_counter() - start)
        return Figure(f"created and persisted, {clients} clients", rate, "/s", 300, more_is_better=True)

    async def _create(self, count: int, clients: int) -> None:
        url, left = self._http.base_url, iter(range(count))
        await asyncio.gather(*(create_again_and_again(str(url.host), url.port or 80, left) for _ in range(clients)))

    async def drained(self) -> None:
        """Return when nothing is queued."""
        newest = {"status": "starting"}
        while newest["status"] in ("starting", "processing"):
            await asyncio.sleep(0.2)
            newest = (await self._http.get("/predictions")).json()["results"][0]

    async def memory_growth(self, count: int, clients: int) -> Figure:
        """How much the server grows over `count` predictions, after the first tenth of them."""
        await self._create(count // 10, clients)
        await self.drained()
        before = self._server.memory_info().rss
        for _ in range(9):
            await self._create(count // 10, clients)
            await self.drained()
        grown = (self._server.memory_info().rss - before) / MIB
        return Figure(f"memory grown over {count:,} predictions", grown, "MiB", 20)

    async def list_page(self, count: int, stored: int) -> Figure:
        """One page of 100 out of what is stored by now."""
        taken = await timed(count, lambda: self._http.get("/predictions"))
        return Figure(f"page of 100 out of {stored:,} predictions, 95th percentile", p95(taken), "ms", 20)

    async def upload_memory(self, size: int) -> Figure:
        """How much the server grows, at its peak, while a file is uploaded."""
        before, peak = self._server.memory_info().rss, 0

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, self._server.memory_info().rss)
                await asyncio.sleep(0.005)

        watcher = asyncio.create_task(watch())
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            answer = await asyncio.to_thread(  # a client of its own, as an AsyncClient reads the file in the loop
                httpx.post,
                f"{self._http.base_url}files",
                files={"content": file},
                headers=HEADERS,
                timeout=120,
                trust_env=False,
            )
        watcher.cancel()
        answer.raise_for_status()
        return Figure(f"peak memory of an upload of {size // MIB} MiB", (peak - before) / MIB, "MiB", 20)


async def measure(url: str, server: psutil.Process, predictions: int) -> list[Figure]:
    """All figures, in the order in which the store fills."""
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(
        base_url=f"{url}/v1", headers=HEADERS, limits=limits, trust_env=False, timeout=60
    ) as http:
        bench = Bench(http, server)
        latency = await bench.create_to_succeeded(200)
        rate = await bench.created_per_second(2000, 32)
        await bench.drained()
        growth = await bench.memory_growth(predictions, 32)
        return [latency, rate, await bench.list_page(100, predictions), growth, await bench.upload_memory(80 * MIB)]


def run(predictions: int) -> list[Figure]:
    """Start both servers, measure, and stop them."""
    model, port = free_port(), free_port()
    with (
        tempfile.TemporaryDirectory() as data,
        process("scripts/instant_model_server.py", "--port", model),
        process("-m", "harness", "serve", "--data", data, "--port", port, "--model-server", f"http://127.0.0.1:{model}")
        as server,
    ):  # fmt: skip
        wait_for(f"http://127.0.0.1:{model}/health-check")
        wait_for(f"http://127.0.0.1:{port}/v1/hardware")
        return asyncio.run(measure(f"http://127.0.0.1:{port}", server, predictions))


def main() -> int:
    """Print a table, and JSON on request; 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--predictions", type=int, default=10_000, help="how many to fill the store with")
    chosen = parser.parse_args()
    figures = run(chosen.predictions)
    if chosen.json:
        print(json.dumps([{**asdict(figure), "met": figure.met} for figure in figures], indent=2))
    else:
        table = Table("figure", "measured", "target", "met")
        for figure in figures:
            sign = ">=" if figure.more_is_better else "<="
            measured = f"{figure.value:.1f} {figure.unit}"
            table.add_row(
                figure.name, measured, f"{sign} {figure.target:g} {figure.unit}", "yes" if figure.met else "no"
            )
        Console().print(table)
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())

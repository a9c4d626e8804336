"""A proxy in front of an HTTP API that fails as a test wants it to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx


@dataclass
class Fault:
    """The next `times` requests of this method whose path contains `path` are answered with `status`.

    after: whether the API gets them all the same, so that only its answer is lost.
    """

    method: str
    path: str
    times: int
    status: int = 500
    after: bool = False


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to `target`, except where one of `faults` says otherwise; `seen` has all, in order."""

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.client = httpx.Client(base_url=target, trust_env=False, timeout=30)
        self.faults: list[Fault] = []
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and fault.path in path:
                fault.times -= 1
                return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.seen.append(f"{self.command} {self.path}")
        fault = self.server.fault(self.command, self.path)
        if fault is None or fault.after:
            headers = {name: self.headers[name] for name in ("authorization", "content-type") if name in self.headers}
            answer = self.server.client.request(self.command, self.path, content=body, headers=headers)
            status, content = answer.status_code, answer.content
        if fault is not None:
            status, content = fault.status, b'{"detail": "asked to fail"}'
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = _pass_on

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def faulty_proxy(target: str) -> Iterator[FaultyProxy]:
    """Run a proxy for the block."""
    with FaultyProxy(target) as proxy, proxy.client:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()

"""A real HTTP server that misbehaves as the test tells it to, and what the weights that it serves are listed as."""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness.download import Patience
from restoration.weights import WeightFile

CONTENT = bytes(range(256)) * 40
NAME = "GFPGANv1.4.pth"
QUICK = Patience(attempts=3, first_wait_s=0.001, stall_s=5)


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


def listed(name: str = NAME, *, size: int | None = len(CONTENT), needs: tuple[str, ...] = ("default",)) -> WeightFile:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return WeightFile(name, digest, "MIT", size_bytes=size, url=f"https://host.example/{name}", needed_for=needs)

"""What the client programs share: they run in an environment of their own, with one client and nothing of ours."""

from __future__ import annotations

import asyncio
import inspect
import os
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue

VERSION = "9283608cc6b7be6b65a8e44983db012355fde4132009bf99d976b2f0896856a3"
MODEL = "tencentarc/gfpgan"
PHOTO = Path(os.environ["PHOTO"])  # 8 x 6 pixels
SUFFIX = os.environ["SUFFIX"]  # makes the names of what this run creates its own

Webhook = tuple[dict[str, str], bytes]


def size_of_png(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG file."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n"), data[:40]
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@contextmanager
def webhooks() -> Iterator[tuple[str, Queue[Webhook]]]:
    """A receiver on localhost: its URL, and what arrives."""
    arrived: Queue[Webhook] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.put((dict(self.headers), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://localhost:{server.server_address[1]}/hook", arrived
        server.shutdown()


class Caught:
    """What a `raises` block raised: `value`."""

    value: Exception


@contextmanager
def raises(kind: type[Exception]) -> Iterator[Caught]:
    """Assert that the block raises `kind`; there is no pytest in a client's environment."""
    caught = Caught()
    try:
        yield caught
    except kind as error:
        caught.value = error
    else:
        raise AssertionError(f"no {kind.__name__} was raised")


def make_all(calls: list[Callable[[], object]]) -> None:
    """Make every call, also after one has failed; print each failure and exit with their number."""
    failed = 0
    for call in calls:
        try:
            result = call()
            if inspect.iscoroutine(result):
                asyncio.run(result)
            print("ok", call.__name__)
        except Exception:
            failed += 1
            print("FAILED", call.__name__, traceback.format_exc())
    sys.exit(failed)

"""A registry of a few lines for tests without Docker, and a `cog` command that pushes to it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COG = """#!{python}
import os, sys, urllib.request
if sys.argv[1:] == ["--version"]:
    print("cog version 0.23.1 (built today)")
    sys.exit()
if "REPLICATE_API_TOKEN" in os.environ:
    sys.exit("Error: the API token is none of cog's business")
image = sys.argv[2]
host, _, model = image.partition("/")
with open(os.environ["COG_OPENAPI_SCHEMA"], "rb") as file:
    schema = file.read()
direct = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
try:
    digest = direct.open(f"http://{{host}}/push/{{model}}", data=schema).read().decode()
except OSError as error:
    sys.exit(f"Error: failed to push image: {{error}}")
print(f"image {{image}}@{{digest}}\\nRun your model on Replicate: https://replicate.com/{{model}}", file=sys.stderr)
"""


class TinyRegistry(ThreadingHTTPServer):
    """Answers what a registry answers to readers; POST /push/owner/name pushes an image whose schema is the body.

    down: pushes that fail before one succeeds. lies: a digest to answer pushes with, in place of the true one.
    schema: put in images in place of the one that was pushed. drops: pushes succeed and leave nothing.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.down = 0
        self.lies = ""
        self.schema = ""
        self.drops = False
        self.pushes = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def push(self, model: str, labels: dict[str, str], extra: str = "") -> str:
        """Store an image; returns its digest."""
        config = self.store(json.dumps({"config": {"Labels": labels}, "extra": extra}).encode())
        digest = self.store(json.dumps({"schemaVersion": 2, "config": {"digest": config}, "layers": []}).encode())
        self.tags[model] = digest
        return digest

    def store(self, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.content[digest] = content
        return digest

    def pushed(self, model: str, schema: str) -> str:
        """What a push gets as its answer: the digest."""
        labels = {"run.cog.openapi_schema": self.schema or schema, "run.cog.version": "0.23.1"}
        tags = dict(self.tags)
        digest = self.push(model, labels)
        if self.drops:
            self.tags = tags
        return self.lies or digest

    def __enter__(self) -> TinyRegistry:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: TinyRegistry

    def do_GET(self) -> None:
        *model, kind, reference = self.path.removeprefix("/v2/").split("/") if self.path != "/v2/" else ["", ""]
        if kind == "manifests" and not reference.startswith("sha256:"):
            reference = self.server.tags.get("/".join(model), "")
        content = b"{}" if self.path == "/v2/" else self.server.content.get(reference)
        self._answer(404 if content is None else 200, content or b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.pushes += 1
        if self.server.down:
            self.server.down -= 1
            self._answer(503, b"")
            return
        self._answer(200, self.server.pushed(self.path.removeprefix("/push/"), body.decode()).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def install_cog(directory: Path) -> str:
    """Put a `cog` command in `directory`; returns the PATH that finds it first."""
    program = directory / "cog"
    program.write_text(COG.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return f"{directory}{os.pathsep}{os.environ['PATH']}"

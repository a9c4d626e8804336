"""A model that gives the photo back, and misbehaves on request."""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path as FilePath

from cog import BasePredictor, Input, Path


class Predictor(BasePredictor):
    """Returns its input; `act` chooses how to go wrong. Marks in $TOY_MARKS tell a test what happened."""

    def setup(self) -> None:
        """Make one work directory for all predictions."""
        self.work = FilePath(tempfile.mkdtemp())
        self.mark("setup")
        print("loading weights toy.pth sha256 0000 on cpu")

    def predict(
        self,
        img: Path = Input(description="The photo."),
        act: str = Input(description="What to do.", default="echo", choices=["echo", "raise", "die", "spin", "shout"]),
        seconds: float = Input(description="How long to take.", default=0, ge=0, le=60),
        scale: float = Input(description="Unused.", default=2, ge=1, le=4),
        seed: int | None = Input(description="Unused.", default=None),
    ) -> Path:
        """Take `seconds`, then act."""
        if not isinstance(img, Path):
            raise ValueError("img must be an http(s) or data URL")
        content = FilePath(img).read_bytes()
        if not content:
            raise ValueError("img is empty")
        self.mark("started")
        try:
            self.take(seconds)
            return self.act(act, content)
        except BaseException as error:
            self.mark(type(error).__name__)
            raise

    def take(self, seconds: float) -> None:
        """Sleep in short steps, printing each."""
        for step in range(round(seconds * 20)):
            print(f"step {step}", flush=True)
            time.sleep(0.05)

    def act(self, act: str, content: bytes) -> Path:
        """Do what was asked."""
        if act == "raise":
            raise RuntimeError("asked to fail")
        if act == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if act == "spin":
            sorted(range(10**9), key=lambda n: -n)  # holds the interpreter for longer than any test waits
        if act == "shout":
            print("x" * 100_000)
        self.record_metric("faces_found", 1)
        self.record_metric("faces_restored", 1)
        self.record_metric("width", 3)
        self.record_metric("height", 2)
        self.record_metric("device", "cpu")
        self.record_metric("seconds.echo", 0.5)
        output = self.work / "out.jpg"
        output.write_bytes(content)
        return Path(output)

    def mark(self, name: str) -> None:
        """Leave a file that a test can see."""
        marks = os.environ.get("TOY_MARKS")
        if marks:
            with (FilePath(marks) / name).open("a") as file:
                file.write(f"{os.getpid()}\n")
        sys.stdout.flush()

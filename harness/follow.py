"""Log files as one stream of lines, as `tail -f` gives them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path

LOOK_EVERY_S = 0.2


def follow(paths: Sequence[Path], *, keep_on: bool) -> Iterator[str]:
    """Yield the files' lines, each with its file's name before it if there are several; with `keep_on`, for ever."""
    files = {path: path.open(encoding="utf-8", errors="replace") for path in paths}
    try:
        while True:
            for path, file in files.items():
                for line in _lines(file, whole_only=keep_on):
                    yield f"{path.stem}: {line}" if len(files) > 1 else line
            if not keep_on:
                return
            time.sleep(LOOK_EVERY_S)
    finally:
        for file in files.values():
            file.close()


def _lines(file: TextIOWrapper, *, whole_only: bool) -> Iterator[str]:
    while True:
        start = file.tell()
        line = file.readline()
        if not line:
            return
        if whole_only and not line.endswith("\n"):
            file.seek(start)  # the rest is still being written
            return
        yield line.rstrip("\n")

"""Cog's server, tied to the life of whoever started it: `python -P process_child.py FD TEMPORARY [cog arguments]`.

FD is the reading end of a pipe whose writing end only the parent holds. When the parent is gone, however it went, the
read ends, the directory TEMPORARY is removed and the whole process group (server and worker) is killed. Run by path,
standard library only: the model's environment need not have the harness in it.
"""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import sys
import threading


def _die_with_parent(pipe: int, temporary: str) -> None:
    os.read(pipe, 1)
    shutil.rmtree(temporary, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    pipe, temporary = int(sys.argv.pop(1)), sys.argv.pop(1)
    os.set_inheritable(pipe, False)  # the worker must not hold it
    threading.Thread(target=_die_with_parent, args=(pipe, temporary), daemon=True).start()
    runpy.run_module("cog.server.http", run_name="__main__", alter_sys=True)

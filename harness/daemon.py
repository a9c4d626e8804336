"""The process behind `harness up`: supervises the replicas of a plan until SIGTERM. `python -m harness.daemon PLAN`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

from filelock import Timeout

from harness.model_server.supervisor import Patience, Supervisor
from harness.plans import runtimes
from harness.service import Plan, Replica, Service, lock, write

PATIENCE = Patience(failures_in_a_row=3)
LOOK_EVERY_S = 0.1


async def serve(plan: Plan, home: Path) -> None:
    """Keep the plan's replicas alive, and the state file true, until SIGTERM or until all were given up."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    started_at = time.time()
    async with AsyncExitStack() as stack:
        supervisors = [
            await stack.enter_async_context(Supervisor(runtime, patience=PATIENCE)) for runtime in runtimes(plan, home)
        ]
        written: Service | None = None
        while not stop.is_set():
            service = Service(os.getpid(), started_at, plan, [_seen(supervisor) for supervisor in supervisors])
            if service != written:
                write(home, service)
                written = service
            if all(supervisor.state.phase == "failed" for supervisor in supervisors):
                return
            await _sleep(stop)


def _seen(supervisor: Supervisor) -> Replica:
    state, runtime = supervisor.state, supervisor.runtime
    return Replica(runtime.name, runtime.url, state.phase, state.restarts, state.reason)


async def _sleep(stop: asyncio.Event) -> None:
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([waiting], timeout=LOOK_EVERY_S)
    waiting.cancel()


def main() -> None:
    """Run the plan given as JSON; $HARNESS_HOME is the directory for state, lock and logs."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every health check
    home = Path(os.environ["HARNESS_HOME"])
    try:
        with lock(home).acquire(timeout=5, blocking=True):  # `harness status` may hold it for a moment
            asyncio.run(serve(Plan(**json.loads(sys.argv[1])), home))
    except Timeout:
        sys.exit("Another daemon holds the lock.")


if __name__ == "__main__":
    main()

"""Work on all cores, by threads that were started before the first prediction.

Cog cancels a prediction by raising an exception in its thread from outside. Python 3.11 gives that exception to a
thread that is just being started instead, which dies of it, and whoever started it waits for ever. So nothing that a
prediction does may start a thread, as `concurrent.futures` would. And no lock written in Python is held, as it would
stay taken: `SimpleQueue` is written in C.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_Jobs = SimpleQueue[Callable[[], None]]


def start() -> None:
    """Start the threads, if they have not been yet."""
    _jobs()


def each(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Map on all cores, results in the order of `items`; raises what `work` raises. `work` must not call `each`.

    Interrupted, it returns at once; what is still being worked on is dropped when done.
    """
    done: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()

    def job(index: int, item: Item) -> None:
        try:
            done.put((index, work(item), None))
        except BaseException as error:  # raised again below, in the thread that asked
            done.put((index, None, error))

    for index, item in enumerate(items):
        _jobs().put(partial(job, index, item))
    results: list[Any] = [None] * len(items)
    for _ in items:
        index, results[index], error = done.get()
        if error is not None:
            raise error
    return results


@cache
def _jobs() -> _Jobs:
    """Return the queue from which the threads take their work."""
    jobs: _Jobs = SimpleQueue()

    def serve() -> None:
        while True:
            jobs.get()()

    for number in range(os.cpu_count() or 1):
        threading.Thread(target=serve, name=f"core-{number}", daemon=True).start()
    return jobs

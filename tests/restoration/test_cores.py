"""Work on all cores comes back in order, and survives being cancelled from outside at any moment."""

from __future__ import annotations

import ctypes
import random
import threading
import time

import numpy as np
import pytest

from restoration import cores, images, png


class Cancelled(BaseException):
    """As Cog raises it in the thread of a prediction."""


def cancel(thread: threading.Thread) -> None:
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Cancelled))


def test_results_come_in_the_order_of_the_items() -> None:
    def slow_for_the_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    assert cores.each(slow_for_the_first, range(20)) == [item * item for item in range(20)]


def test_what_the_work_raises_is_raised_and_the_threads_live_on() -> None:
    with pytest.raises(ZeroDivisionError):
        cores.each(lambda item: 1 // item, [1, 0, 2])
    assert cores.each(str, [1, 2]) == ["1", "2"]


def test_resizing_and_writing_start_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    cores.start()
    monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail(f"{self} is started"))
    png.encode(images.resize(np.zeros((256, 256, 3), np.uint8), (512, 512)))


@pytest.mark.timeout(120)
def test_a_cancellation_at_any_moment_ends_it() -> None:
    moments = random.Random(1)
    photo = np.zeros((256, 256, 3), np.uint8)
    ended: list[type[BaseException]] = []

    def work() -> None:
        try:
            begun.set()
            while True:
                images.resize(photo, (300, 300))
        except Cancelled as error:
            ended.append(type(error))

    for _ in range(200):
        begun = threading.Event()
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        begun.wait()
        time.sleep(moments.uniform(0, 0.01))
        cancel(thread)
        thread.join(20)
        assert not thread.is_alive(), "it waits for ever"
    assert len(ended) == 200

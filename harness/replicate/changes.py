"""Who waits for which prediction: requests that hold on for its end, and streams that follow it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from harness.replicate.predictions import Prediction


class Changes:
    """Hands every committed state of a prediction to those who watch it."""

    def __init__(self) -> None:
        self._watchers: defaultdict[str, set[asyncio.Queue[Prediction]]] = defaultdict(set)

    def publish(self, prediction: Prediction) -> None:
        """Tell the watchers of `prediction` what it now is."""
        for queue in self._watchers.get(prediction.id, ()):
            queue.put_nowait(prediction)

    @contextmanager
    def watch(self, prediction_id: str) -> Iterator[asyncio.Queue[Prediction]]:
        """Collect the states published during the block; look at the store once inside, not before."""
        queue: asyncio.Queue[Prediction] = asyncio.Queue()
        self._watchers[prediction_id].add(queue)
        try:
            yield queue
        finally:
            self._watchers[prediction_id].discard(queue)
            if not self._watchers[prediction_id]:
                del self._watchers[prediction_id]

"""Rehearsals of what the hosted service does to its callers."""

from __future__ import annotations

import time
from collections import deque

from harness.errors import Problem

_WINDOW_S = 60.0


class RateLimit:
    """So many creations in any minute; no limit for None."""

    def __init__(self, per_minute: int | None) -> None:
        self._per_minute = per_minute
        self._made: deque[float] = deque()

    def take(self) -> dict[str, str]:
        """Count one creation and return the headers that tell what is left; raises Problem 429."""
        if self._per_minute is None:
            return {}
        now = time.monotonic()
        while self._made and self._made[0] <= now - _WINDOW_S:
            self._made.popleft()
        if len(self._made) >= self._per_minute:
            raise _throttled(self._made[0] + _WINDOW_S - now)
        self._made.append(now)
        reset = self._made[0] + _WINDOW_S - now
        return {"ratelimit-remaining": str(self._per_minute - len(self._made)), "ratelimit-reset": f"{reset:.0f}"}


def _throttled(seconds: float) -> Problem:
    whole = int(seconds) + 1
    return Problem(
        429,
        f"Request was throttled. Your rate limit resets in ~{whole}s.",
        retry_after=whole,
        headers={"Retry-After": str(whole), "ratelimit-remaining": "0", "ratelimit-reset": str(whole)},
    )

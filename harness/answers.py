"""Answers of servers by httpx: a body that cannot grow without end, and what went wrong on one line."""

from __future__ import annotations

import httpx


def body_within(answer: httpx.Response, limit: int) -> bytes | None:
    """Read the body of a streamed answer; None, and no more is read, once it exceeds `limit` bytes."""
    content = bytearray()
    for piece in answer.iter_bytes():
        content += piece
        if len(content) > limit:
            return None
    return bytes(content)


def reason(error: Exception) -> str:
    """Say on one line why there was no answer."""
    return " ".join(str(error).split()) or type(error).__name__

"""Bring one file over HTTP into a part file: what has arrived survives a cut or a kill, and is not asked for again.

`pooch` was considered: it has no byte-range resume, no retry that keeps what came, and no limit on what a server sends.
The bytes are the server's word only: whoever calls checks the sha256 before using them.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import logging
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from harness.errors import WeightsDownloadError

MIRROR = "RESTORATION_WEIGHTS_MIRROR"
_UNSTATED_LIMIT = 2 * 1024**3  # bytes taken at most where neither the manifest nor the server states a size

_NUMBER = "[0-9]{1,15}"  # longer ones are no file's
_CONTENT_RANGE = re.compile(rf"bytes ({_NUMBER})-{_NUMBER}/({_NUMBER}|\*)")

log = logging.getLogger(__name__)

Report = Callable[[int, int | None, str], None]
"""Called with the bytes there so far, their total where it is known, and the trouble, "" while there is none."""


@dataclass(frozen=True)
class Patience:
    """How long to bear with a server: `attempts` in a row that bring nothing new, and the waits between them."""

    attempts: int = 5
    first_wait_s: float = 1
    longest_wait_s: float = 30
    longest_retry_after_s: float = 120
    stall_s: float = 30  # without a byte, or without a connection


class _Retry(Exception):
    """This attempt failed in a way that another may not. `afresh`: what is there already cannot be continued."""

    def __init__(self, reason: str, *, afresh: bool = False, wait_s: float = 0) -> None:
        super().__init__(reason)
        self.afresh = afresh
        self.wait_s = wait_s


async def download(
    client: httpx.AsyncClient, url: httpx.URL, part: Path, size: int | None, patience: Patience, report: Report
) -> bool:
    """Bring the `size` bytes at `url` (None: as many as the server states) into `part`, continuing what it holds.

    Returns whether a single answer brought all of it: if not, its pieces may be of different contents. `part` stays
    when the call fails or is cancelled. Raises `WeightsDownloadError`; `OSError` where `part` cannot be written.
    """
    furthest, failures = _length(part), 0  # failures: in a row, without a new byte
    while size is None or _length(part) != size:
        try:
            return await _attempt(client, url, part, size, report)
        except (_Retry, httpx.TransportError) as error:
            failures = 0 if _length(part) > furthest else failures + 1
            furthest = max(furthest, _length(part))
            if failures == patience.attempts:
                raise WeightsDownloadError(_given_up(url, part, error)) from error
            if isinstance(error, _Retry) and error.afresh:
                _discard(part)
            wait_s = _wait_s(error, url, failures, patience)
            trouble = f"{_reason(error)}; trying again in {wait_s:.0f} s"
            log.info("%s: %s: %s", part.stem, url.host, trouble)
            report(_length(part), size, trouble)
            await asyncio.sleep(wait_s)
        except httpx.HTTPError as error:
            raise WeightsDownloadError(_given_up(url, part, error)) from error
    return False


async def _attempt(client: httpx.AsyncClient, url: httpx.URL, part: Path, size: int | None, report: Report) -> bool:
    """Ask once for what `part` lacks. Returns whether the answer began at the first byte."""
    there = _length(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-"} if there else {})
    async with client.stream("GET", url, headers=headers) as response:
        there, total = _read_head(response, there)
        if size is not None and total not in (None, size):
            raise WeightsDownloadError(
                f"{url.host} offers {total} bytes for {part.stem}, expected {size}: {_look_between(url)}"
            )
        await _read_body(response, part, there, size or total, report)
    return there == 0


def _read_head(response: httpx.Response, there: int) -> tuple[int, int | None]:
    """Where the body of `response` starts in the file, and the file's length where stated."""
    code = response.status_code
    if code == 200:  # the whole file: where a range was asked for, the server does not do ranges
        stated = response.headers.get("Content-Length", "")
        return 0, int(stated) if re.fullmatch(_NUMBER, stated) else None
    if code == 206:
        content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if content_range is None or int(content_range[1]) != there:
            raise _Retry("it answered with another range than the one asked for", afresh=True)
        return there, None if content_range[2] == "*" else int(content_range[2])
    if code == 416:
        raise _Retry("it has no bytes where the file should continue", afresh=True)
    if code in (408, 429) or code >= 500:
        raise _Retry(f"it answered {code}", wait_s=_retry_after_s(response))
    raise WeightsDownloadError(
        f"{response.url.host} answered {code} {response.reason_phrase}: {_look_between(response.url)}"
    )


async def _read_body(response: httpx.Response, part: Path, there: int, size: int | None, report: Report) -> None:
    """Write the body after the first `there` bytes of `part`, never more than `size` in all."""
    limit = size or _UNSTATED_LIMIT
    with part.open("ab") as stream:
        stream.truncate(there)
        report(there, size, "")
        async for chunk in response.aiter_raw():
            if there + len(chunk) > limit:
                stream.truncate(0)
                raise WeightsDownloadError(
                    f"{response.url.host} sends more than {limit} bytes for {part.stem}: {_look_between(response.url)}"
                )
            stream.write(chunk)
            there += len(chunk)
            report(there, size, "")
    if size is not None and there < size:
        raise _Retry(f"it ended after {there} of {size} bytes")


def _wait_s(error: Exception, url: httpx.URL, failures: int, patience: Patience) -> float:
    """How long to wait: twice as long for each failure in a row, less a random part; never less than is asked for."""
    wait_s = min(patience.first_wait_s * 2.0 ** max(failures - 1, 0), patience.longest_wait_s)
    wait_s *= random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret
    asked_s = error.wait_s if isinstance(error, _Retry) else 0
    if asked_s > patience.longest_retry_after_s:
        raise WeightsDownloadError(f"{url.host} asks to wait {asked_s:.0f} s: run the command again after that")
    return max(wait_s, asked_s)


def _retry_after_s(response: httpx.Response) -> float:
    """Seconds that the server asks to wait: a number or a date; 0 where it asks for nothing that can be read."""
    value = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(_NUMBER, value):
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0
    return max(0, (moment - datetime.datetime.now(moment.tzinfo)).total_seconds())


def _given_up(url: httpx.URL, part: Path, error: Exception) -> str:
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return f"{url.host} cannot be reached: check the network connection, or set {MIRROR} to the address of a mirror"
    return f"{url.host} failed again and again ({_reason(error)}): run the command again, it continues where it was"


def _look_between(url: httpx.URL) -> str:
    return f"check that nothing on the way answers in place of {url.host}, or set {MIRROR} to the address of a mirror"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)

"""Identifiers, times and page cursors, in the shapes that Replicate gives them."""

from __future__ import annotations

import base64
import secrets
from datetime import UTC, datetime, timedelta

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id() -> str:
    """Return 130 random bits as 26 characters of lower-case Crockford base32, as prediction ids look."""
    return "".join(_CROCKFORD[byte & 31] for byte in secrets.token_bytes(26))


def now() -> str:
    """Return the present time as `timestamp` writes it."""
    return timestamp(datetime.now(UTC))


def timestamp(moment: datetime) -> str:
    """Return RFC 3339 with microseconds and `Z`; such strings sort as the moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_timestamp(text: str) -> datetime:
    """Return the moment that an ISO 8601 string names, UTC where it names no zone; ValueError if it is none."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def later(seconds: float, since: str | None = None) -> str:
    """Return the timestamp `seconds` after `since` (default: now)."""
    start = parse_timestamp(since) if since else datetime.now(UTC)
    return timestamp(start + timedelta(seconds=seconds))


def seconds_between(earlier: str, later_one: str) -> float:
    """Return the seconds from one timestamp to another."""
    return (parse_timestamp(later_one) - parse_timestamp(earlier)).total_seconds()


def encode_cursor(text: str) -> str:
    """Return an opaque page cursor."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """Return what `encode_cursor` was given; ValueError for anything else."""
    return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()

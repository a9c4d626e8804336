"""Identifiers, times and cursors."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.replicate import ids


def test_ids_look_as_replicates_and_differ() -> None:
    made = {ids.new_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"[0-9a-hjkmnp-tv-z]{26}", one) for one in made)


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_timestamps_sort_as_moments_do(one: datetime, other: datetime) -> None:
    assert (ids.timestamp(one) < ids.timestamp(other)) == (one < other)
    assert ids.parse_timestamp(ids.timestamp(one)) == one


def test_a_time_without_zone_is_utc() -> None:
    assert ids.timestamp(ids.parse_timestamp("2025-01-01T00:00:00")) == "2025-01-01T00:00:00.000000Z"
    assert ids.timestamp(ids.parse_timestamp("2025-01-01T02:00:00+02:00")) == "2025-01-01T00:00:00.000000Z"


@given(st.text())
def test_cursors_hide_any_text_in_url_safe_letters(text: str) -> None:
    cursor = ids.encode_cursor(text)
    assert re.fullmatch(r"[\w-]*", cursor, re.ASCII)
    assert ids.decode_cursor(cursor) == text


@pytest.mark.parametrize("cursor", ["%", "a", "\xff", "____"])
def test_a_foreign_cursor_is_a_value_error(cursor: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - several kinds
        ids.decode_cursor(cursor)

"""releases.toml: what is written is what is read, and a reader never sees half of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.release import releases
from harness.release.releases import Release

DOCUMENT: dict[str, Any] = {"components": {"schemas": {"Input": {"type": "object"}, "Output": {"type": "string"}}}}


def release(number: int, **fields: Any) -> Release:  # noqa: ANN401 - Release's own
    version = f"{number:x}" * 64
    usual = {"model": "me/model", "version": version, "digest": f"sha256:{version}", "schema": DOCUMENT}
    return Release(**({**usual, "pushed_at": "2026-11-21T10:00:00+00:00"} | fields))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "releases.toml"


texts = st.text(st.characters(codec="utf-8"), max_size=20)
plain = st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | texts


@settings(max_examples=60, deadline=None)
@given(
    schema=st.recursive(plain | st.none(), lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8),
    weights=st.dictionaries(texts, texts),
    figures=st.dictionaries(texts, plain),
    gate=texts,
)
def test_what_is_recorded_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    schema: object,
    weights: dict[str, str],
    figures: dict[str, Any],
    gate: str,
) -> None:
    path = tmp_path_factory.getbasetemp() / "property.toml"
    path.unlink(missing_ok=True)
    recorded = release(1, schema={"any": schema}, weights=weights, figures=figures, gate=gate)
    releases.record(recorded, path)
    assert releases.read(path) == [recorded]


def test_the_newest_release_of_a_model_is_the_live_one(file: Path) -> None:
    for one in (release(1), release(2), release(3, model="me/other")):
        releases.record(one, file)
    assert releases.live("me/model", file) == release(2)
    assert releases.live("me/other", file) == release(3, model="me/other")
    assert releases.live(path=file) == release(3, model="me/other")
    assert releases.live("me/absent", file) is None


def test_the_same_version_again_stays_the_release_that_it_was_and_becomes_the_live_one(file: Path) -> None:
    first = release(1, git_commit="abc", figures={"setup": 1.0}, gate="Ready to push.")
    unmeasured = release(2)
    for one in (first, unmeasured):
        releases.record(one, file)
    later: dict[str, Any] = {"pushed_at": "2027-01-01T00:00:00+00:00", "git_commit": "def", "gate": "Ready again."}
    again = releases.record(release(1, figures={"setup": 9.0}, **later), file)
    assert again == first
    assert [(one.version[0], one.live) for one in releases.read(file)] == [("1", True), ("2", False)]
    measured = releases.record(release(2, figures={"setup": 2.0}, **later), file)
    assert (measured.figures, measured.pushed_at) == ({"setup": 2.0}, unmeasured.pushed_at)
    assert [one.live for one in releases.read(file)] == [False, True]


def test_a_version_is_found_by_its_first_characters(file: Path) -> None:
    known = [release(1), release(2, version="11" + "2" * 62)]
    assert releases.find("112", known) == known[1]
    for wrong in ("11", "", "3"):
        with pytest.raises(UsageError, match="111111111111, 112222222222"):
            releases.find(wrong, known)


@pytest.mark.parametrize("damage", ["[[release", "[[release]]\nmodel = 1\n", "release = 3", b"\xff\xfe"])
def test_a_damaged_file_is_named_and_kept(file: Path, damage: str | bytes) -> None:
    file.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    with pytest.raises(UsageError, match=r"releases\.toml cannot be read"):
        releases.record(release(1), file)
    assert file.read_bytes() == (damage if isinstance(damage, bytes) else damage.encode())


def test_a_schema_that_was_edited_by_hand_is_noticed(file: Path) -> None:
    releases.record(release(1), file)
    file.write_text(file.read_text().replace("object", "string"))
    with pytest.raises(UsageError, match="does not have the hash"):
        releases.read(file)


def test_a_write_that_fails_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    releases.record(release(1), file)

    def fail(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        releases.record(release(2), file)
    assert releases.read(file) == [release(1)]
    assert [path.name for path in file.parent.iterdir()] == [file.name]

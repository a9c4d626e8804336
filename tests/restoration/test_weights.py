"""A checkpoint that is not byte for byte the listed one must never be loaded, and every refusal must say what to do."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restoration.errors import WeightsCorrupt, WeightsError, WeightsMissing
from restoration.weights import WeightFile, Weights, write_manifest

CONTENT = b"a checkpoint, for all that the manifest knows" * 100
NAME = "GFPGANv1.4.pth"
COMMITTED = Path(__file__).parents[2] / "weights"

# Each row as published: release, size, the first and last digits of the sha256.
TABLE = {
    "GFPGANv1.2.pth": ("TencentARC/GFPGAN v1.3.0", None, "29e25ee9", "05db083c"),
    "GFPGANv1.3.pth": ("TencentARC/GFPGAN v1.3.0", 348632874, "c953a88f", "17524a70"),
    "GFPGANv1.4.pth": ("TencentARC/GFPGAN v1.3.0", 348632874, "e2cd4703", "a1b6be5ad"),
    "RestoreFormer.pth": ("TencentARC/GFPGAN v1.3.4", 290785322, "07404d44", "8f24ace0"),
    "detection_Resnet50_Final.pth": ("xinntao/facexlib v0.1.0", 109497761, "6d1de9c2", "0a5a16d"),
    "detection_mobilenet0.25_Final.pth": ("xinntao/facexlib v0.1.0", 1789735, "2979b33f", "83a65220"),
    "parsing_parsenet.pth": ("xinntao/facexlib v0.2.2", 85331193, "3d558d8d", "2920de2"),
    "realesr-general-x4v3.pth": ("xinntao/Real-ESRGAN v0.2.5.0", 4885111, "8dc7edb9", "bece96292"),
    "RealESRGAN_x2plus.pth": ("xinntao/Real-ESRGAN v0.2.1", 67061725, "49fafd45", "2fa266abb"),
}


def entry(
    name: str = NAME, *, size: int | None = len(CONTENT), needed_for: tuple[str, ...] = ("default",)
) -> WeightFile:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return WeightFile(name, digest, "MIT", size_bytes=size, url=f"https://host.example/{name}", needed_for=needed_for)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_manifest(tmp_path, [entry()])
    (tmp_path / NAME).write_bytes(CONTENT)
    return tmp_path


def test_the_committed_manifest_is_the_published_table() -> None:
    files = Weights(COMMITTED).files
    assert set(files) == set(TABLE)
    for name, (release, size, first, last) in TABLE.items():
        repository, tag = release.split()
        assert files[name].url == f"https://github.com/{repository}/releases/download/{tag}/{name}"
        assert files[name].size_bytes == size
        assert files[name].sha256.startswith(first)
        assert files[name].sha256.endswith(last)


def test_every_committed_file_has_a_licence_and_a_note() -> None:
    licences = {file.licence for file in Weights(COMMITTED).files.values()}
    assert licences == {"Apache-2.0", "MIT", "BSD-3-Clause"}
    assert all(file.licence_note for file in Weights(COMMITTED).files.values())


def test_the_default_inputs_need_four_files() -> None:
    needed = {file.name for file in Weights(COMMITTED).files.values() if "default" in file.needed_for}
    assert needed == {
        "GFPGANv1.4.pth",
        "detection_Resnet50_Final.pth",
        "parsing_parsenet.pth",
        "realesr-general-x4v3.pth",
    }


def test_an_intact_file_is_hashed_once(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "restoration.weights")
    assert Weights(directory).path(NAME) == directory / NAME
    assert Weights(directory).path(NAME) == directory / NAME
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert caplog.messages == [f"{NAME}: sha256 {sha256}, hashed", f"{NAME}: sha256 {sha256}, remembered"]


def test_a_file_changed_after_it_was_verified_is_hashed_again(directory: Path) -> None:
    Weights(directory).path(NAME)
    changed = b"A" + CONTENT[1:]
    (directory / NAME).write_bytes(changed)
    os.utime(directory / NAME, ns=(1, 1))
    with pytest.raises(WeightsCorrupt) as caught:
        Weights(directory).path(NAME)
    for expected in (NAME, entry().sha256, hashlib.sha256(changed).hexdigest(), "make weights"):
        assert expected in str(caught.value)


def test_a_manifest_changed_after_a_file_was_verified_is_believed(directory: Path) -> None:
    Weights(directory).path(NAME)
    write_manifest(directory, [WeightFile(NAME, "0" * 64, "MIT")])
    with pytest.raises(WeightsCorrupt, match="0" * 64):
        Weights(directory).path(NAME)


def test_verify_hashes_even_what_is_remembered(directory: Path) -> None:
    Weights(directory).path(NAME)
    times = (directory / NAME).stat()
    (directory / NAME).write_bytes(b"A" + CONTENT[1:])
    os.utime(directory / NAME, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(WeightsCorrupt):
        Weights(directory).verify(NAME)


def test_a_wrong_size_is_named_and_never_remembered_away(directory: Path) -> None:
    Weights(directory).path(NAME)
    (directory / NAME).write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsCorrupt, match=rf"{NAME} has {len(CONTENT) - 1} bytes, expected {len(CONTENT)}"):
        Weights(directory).path(NAME)


def test_without_a_stated_size_the_hash_decides(tmp_path: Path) -> None:
    write_manifest(tmp_path, [entry(size=None)])
    (tmp_path / NAME).write_bytes(CONTENT)
    assert Weights(tmp_path).path(NAME).read_bytes() == CONTENT
    (tmp_path / NAME).write_bytes(CONTENT + b"!")
    with pytest.raises(WeightsCorrupt, match="sha256"):
        Weights(tmp_path).path(NAME)


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        (entry(), "run `make weights`"),
        (entry(needed_for=("v1.4",)), f"run `harness weights fetch {NAME}`"),
        (WeightFile(NAME, "0" * 64, "MIT"), "run the command that made this directory again"),
    ],
)
def test_a_missing_file_names_the_command_that_brings_it(tmp_path: Path, file: WeightFile, remedy: str) -> None:
    write_manifest(tmp_path, [file])
    with pytest.raises(WeightsMissing, match=rf"{NAME} is not in .*: {re.escape(remedy)}$"):
        Weights(tmp_path).path(NAME)


def test_a_directory_in_place_of_a_file_is_corrupt(tmp_path: Path) -> None:
    write_manifest(tmp_path, [entry(size=None)])
    (tmp_path / NAME).mkdir()
    with pytest.raises(WeightsCorrupt, match="not a regular file"):
        Weights(tmp_path).path(NAME)


@pytest.mark.parametrize("name", ["../etc/passwd", "/etc/passwd", "other.pth", "manifest.toml", ""])
def test_only_names_of_the_manifest_are_opened(directory: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=rf"lists {NAME}"):
        Weights(directory).path(name)


@pytest.mark.parametrize("memory", [b"", b"not json", b"[]", b'{"GFPGANv1.4.pth": 3}', b"\xff", b"[" * 100_000])
def test_a_spoilt_memory_only_costs_a_hash(directory: Path, memory: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "restoration.weights")
    (directory / ".verified.json").write_bytes(memory)
    assert Weights(directory).path(NAME) == directory / NAME
    assert caplog.messages[0].endswith("hashed")
    Weights(directory).path(NAME)
    assert caplog.messages[-1].endswith("remembered")


def test_where_nothing_can_be_remembered_the_file_is_hashed_each_time(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "restoration.weights")
    (directory / ".verified.json").mkdir()  # as unwritable as a read-only directory, for root too
    for _ in range(2):
        assert Weights(directory).path(NAME) == directory / NAME
    assert sum(message.endswith(", hashed") for message in caplog.messages) == 2
    assert {path.name for path in directory.iterdir()} == {NAME, "manifest.toml", ".verified.json"}


def test_adopt_gives_an_intact_candidate_its_name(directory: Path) -> None:
    (directory / NAME).write_bytes(b"an older one")
    (directory / "candidate").write_bytes(CONTENT)
    path = Weights(directory).adopt(NAME, directory / "candidate")
    assert path.read_bytes() == CONTENT
    assert not (directory / "candidate").exists()


def test_adopt_leaves_the_old_file_when_the_candidate_is_wrong(directory: Path) -> None:
    (directory / "candidate").write_bytes(CONTENT[::-1])
    with pytest.raises(WeightsCorrupt, match="candidate has sha256"):
        Weights(directory).adopt(NAME, directory / "candidate")
    assert (directory / NAME).read_bytes() == CONTENT


def test_without_a_manifest_the_directory_is_no_weights_directory(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"manifest\.toml does not exist"):
        Weights(tmp_path)


GOOD = f'sha256 = "{"0" * 64}"\nlicence = "MIT"\n'


@pytest.mark.parametrize(
    ("manifest", "named"),
    [
        ("files = ", "not valid TOML"),
        ("\udcff", "not valid TOML"),
        ("", "the table `files`"),
        ("files = 3", "the table `files`"),
        ("version = 1\n[files]", "version"),
        ("[files]\n'x.pth' = 3", "x.pth must be a table"),
        ("[files.'x.pth']\nlicence = 'MIT'", "sha256 of x.pth"),
        (f"[files.'x.pth']\nsha256 = '{'0' * 64}'", "licence of x.pth"),
        (f"[files.'x.pth']\nsha256 = '{'G' * 64}'\nlicence = 'MIT'", "sha256 of x.pth"),
        (f"[files.'x.pth']\n{GOOD}size = 3", "unknown key 'size'"),
        (f"[files.'x.pth']\n{GOOD}bytes = 0", "bytes of x.pth"),
        (f"[files.'x.pth']\n{GOOD}bytes = true", "bytes of x.pth"),
        (f"[files.'x.pth']\n{GOOD}bytes = '3'", "bytes of x.pth"),
        (f"[files.'x.pth']\n{GOOD}url = 'http://host.example/x.pth'", "url of x.pth"),
        (f"[files.'x.pth']\n{GOOD}url = 'https://user:word@host.example/x.pth'", "url of x.pth"),
        (f"[files.'x.pth']\n{GOOD}needed_for = 'default'", "needed_for of x.pth"),
        (f"[files.'../x.pth']\n{GOOD}", "'../x.pth'"),
        (f"[files.'/x.pth']\n{GOOD}", "'/x.pth'"),
        (f"[files.'a\\x.pth']\n{GOOD}", "x.pth"),
        (f"[files.'.x.pth']\n{GOOD}", "'.x.pth'"),
        (f"[files.'manifest.toml']\n{GOOD}", "'manifest.toml'"),
    ],
)
def test_a_bad_manifest_is_refused_by_file_and_key(tmp_path: Path, manifest: str, named: str) -> None:
    (tmp_path / "manifest.toml").write_text(manifest, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(WeightsError) as caught:
        Weights(tmp_path)
    assert "manifest.toml" in str(caught.value)
    assert named in str(caught.value)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
files = st.builds(
    WeightFile,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}\.pth", fullmatch=True),
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    licence=texts,
    licence_note=st.just("") | texts,
    size_bytes=st.none() | st.integers(1, 2**40),
    url=st.none() | st.just("https://host.example/x.pth"),
    needed_for=st.lists(texts, max_size=3).map(tuple),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(files, max_size=3, unique_by=lambda file: file.name))
def test_what_is_written_is_what_is_read(listed: list[WeightFile]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        write_manifest(Path(directory), listed)
        assert list(Weights(directory).files.values()) == listed

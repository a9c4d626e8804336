"""Converted models are kept, found again, and never wrong: each test is a real conversion of a small network."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from restoration import converted
from restoration.errors import OutOfMemory
from restoration.networks import load_upscaler

Images = npt.NDArray[np.uint8]

ENLARGE = """
import hashlib, sys
from pathlib import Path
import numpy as np
from restoration.errors import OutOfMemory
from restoration.networks import load_upscaler

tile = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(1, 16, 16, 3)
network = load_upscaler(Path(sys.argv[1]), cache=Path(sys.argv[2]))
print(hashlib.sha256(network(tile).tobytes()).hexdigest(), "torch" in sys.modules)
"""


@pytest.fixture
def tile(face: Images) -> Images:
    return face[np.newaxis, 200:232, 200:232]


@pytest.fixture(autouse=True)
def users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "restoration"


def test_a_kept_model_answers_the_same_without_torch(random_realesrgan: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENLARGE, str(random_realesrgan), str(tmp_path / "cache")]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first.split()[1] == "True"
    assert second.split()[1] == "False"
    assert first.split()[0] == second.split()[0]


def test_two_processes_convert_at_once(random_realesrgan: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENLARGE, str(random_realesrgan), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate(timeout=120)[0].split()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(answers) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1, "one model, and nothing half-made"


def test_a_changed_checkpoint_of_the_same_name_size_and_time_is_converted_anew(
    random_realesrgan: Path, tmp_path: Path, tile: Images
) -> None:
    path = tmp_path / random_realesrgan.name
    shutil.copy(random_realesrgan, path)
    before = load_upscaler(path)(tile)
    status, content = path.stat(), torch.load(path, weights_only=True)
    for value in content["params"].values():
        value.zero_()
    torch.save(content, path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size

    assert np.array_equal(load_upscaler(path)(tile), tile.repeat(4, axis=1).repeat(4, axis=2))
    assert not np.array_equal(before, load_upscaler(path)(tile))


def test_a_damaged_model_is_made_again(random_realesrgan: Path, tmp_path: Path, tile: Images) -> None:
    before = load_upscaler(random_realesrgan, cache=tmp_path / "cache")(tile)
    [weights] = (tmp_path / "cache").glob("*/network.blob")
    weights.unlink()
    weights.write_bytes(b"short")
    assert np.array_equal(load_upscaler(random_realesrgan, cache=tmp_path / "cache")(tile), before)
    assert weights.stat().st_size > 1_000_000


def test_models_go_beside_the_weights_or_else_to_the_user_s_cache(
    random_realesrgan: Path, tmp_path: Path, users_cache: Path
) -> None:
    path = tmp_path / random_realesrgan.name
    shutil.copy(random_realesrgan, path)
    load_upscaler(path)
    assert list((tmp_path / converted.DIRECTORY).glob("*/network.blob"))
    assert not users_cache.exists()

    shutil.rmtree(tmp_path / converted.DIRECTORY)
    (tmp_path / converted.DIRECTORY).write_text("no directory can be here")  # root may write where modes forbid it
    load_upscaler(path)
    assert list(users_cache.glob("*/network.blob"))


def test_nowhere_to_keep_it_still_works_and_is_told(
    random_realesrgan: Path, tmp_path: Path, tile: Images, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.INFO):
        network = load_upscaler(random_realesrgan, cache=tmp_path / "file" / "cache")
    assert network(tile).shape == (1, 128, 128, 3)
    assert "cannot be kept" in caplog.text


def test_a_moment_without_memory_costs_no_kept_model(
    random_realesrgan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_upscaler(random_realesrgan, cache=tmp_path)
    [kept] = tmp_path.glob("*/network.blob")

    def exhausted(*_: object) -> None:
        raise RuntimeError("Exception from src/core: std::bad_alloc")

    with monkeypatch.context() as patch:
        patch.setattr("openvino.Core.import_model", exhausted)
        with pytest.raises(OutOfMemory):
            load_upscaler(random_realesrgan, cache=tmp_path)
    assert kept.exists()

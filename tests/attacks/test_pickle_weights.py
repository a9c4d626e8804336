"""A checkpoint is a pickle, and a pickle can run programs: ours must not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from restoration.errors import WeightsCorrupt
from restoration.networks import load_face_detector, load_face_parser, load_face_restorer, load_upscaler


class Payload:
    """Makes a directory when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "load",
    [load_face_restorer, load_face_parser, lambda path: load_face_detector(path, "resnet50"), load_upscaler],
    ids=["restorer", "parser", "detector", "upscaler"],
)
def test_a_checkpoint_s_pickle_never_runs(load: Callable[[Path], Any], zipped: bool, tmp_path: Path) -> None:
    path, target = tmp_path / "weights.pth", tmp_path / "owned"
    torch.save({"params_ema": Payload(target)}, path, _use_new_zipfile_serialization=zipped)

    with pytest.raises(WeightsCorrupt, match=r"weights\.pth is no readable checkpoint of tensors alone"):
        load(path)
    assert not target.exists()

    torch.load(path, weights_only=False)
    assert target.exists(), "the attack is real"

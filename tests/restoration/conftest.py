"""One aligned face, and random checkpoints in the published format, made once for all tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
import torch
from facexlib.parsing.parsenet import ParseNet
from spandrel.architectures.Compact import Compact
from spandrel.architectures.GFPGAN import GFPGAN
from spandrel.architectures.RestoreFormer import RestoreFormer
from torch import nn

from restoration.networks import Network, load_face_restorer

ASTRONAUT_LANDMARKS = ((203.6, 101.1), (247.5, 104.6), (223.3, 129.3), (200.9, 138.4), (245.6, 141.2))
TEMPLATE = (
    (192.98138, 239.94708),
    (318.90277, 240.1936),
    (256.63416, 314.01935),
    (201.26117, 371.41043),
    (313.08905, 371.15118),
)


@pytest.fixture(scope="session")
def astronaut() -> npt.NDArray[np.uint8]:
    """A public-domain photo with one face, (512, 512, 3) RGB."""
    return np.asarray(skimage.data.astronaut())


@pytest.fixture(scope="session")
def face(astronaut: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Its face, aligned as the restorers expect it, (512, 512, 3) RGB."""
    matrix, _ = cv2.estimateAffinePartial2D(np.array(ASTRONAUT_LANDMARKS), np.array(TEMPLATE), method=cv2.LMEDS)
    return np.asarray(cv2.warpAffine(astronaut, matrix, (512, 512)), np.uint8)


@pytest.fixture(scope="session")
def random_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for random checkpoints."""
    directory = tmp_path_factory.mktemp("random")
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def random_gfpgan(random_checkpoints: Path) -> Path:
    """GFPGAN, scaled so that the face shapes the output, and with the noise that an untrained network would lack."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        module: nn.Module = GFPGAN()
        for name, parameter in module.named_parameters():
            if not name.startswith("stylegan_decoder."):
                parameter.mul_(1.7 if parameter.dim() == 4 else 1)
            elif parameter.shape == (1,):
                parameter.fill_(0.3)
            elif "to_rgb" in name:
                parameter.mul_(0.03 if name.endswith("conv.weight") else 1)
    return save({"params_ema": module.state_dict()}, random_checkpoints / "gfpgan.pth")


@pytest.fixture(scope="session")
def exact_gfpgan(random_gfpgan: Path) -> Network:
    """That network in fp32, converted once."""
    return load_face_restorer(random_gfpgan)


@pytest.fixture(scope="session")
def randomly_restored(exact_gfpgan: Network, face: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """What it makes of the face, (512, 512, 3) RGB."""
    [restored] = exact_gfpgan(face[np.newaxis])
    return np.asarray(restored)


@pytest.fixture(scope="session")
def random_restoreformer(random_checkpoints: Path) -> Path:
    """RestoreFormer, its codebook as spread out as what is looked up in it."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        module: nn.Module = RestoreFormer()
        module.get_parameter("quantize.embedding.weight").normal_(0, 0.2)
    return save({"params": module.state_dict()}, random_checkpoints / "restoreformer.pth")


@pytest.fixture(scope="session")
def exact_restoreformer(random_restoreformer: Path) -> Network:
    """That network in fp32, converted once."""
    return load_face_restorer(random_restoreformer)


@pytest.fixture(scope="session")
def random_parsenet(random_checkpoints: Path) -> Path:
    """ParseNet, as its constructor leaves it."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return save(ParseNet(512, 512, parsing_ch=19).state_dict(), random_checkpoints / "parsenet.pth")


@pytest.fixture(scope="session")
def random_realesrgan(random_checkpoints: Path) -> Path:
    """Real-ESRGAN x4v3, with a residual large enough to matter beside the repeated pixels."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(4)
        module: nn.Module = Compact(num_feat=64, num_conv=32, upscale=4)
        for name, parameter in module.named_parameters():
            parameter.mul_(1.5 if name.endswith("weight") and parameter.dim() == 4 else 1)
    return save({"params": module.state_dict()}, random_checkpoints / "realesrgan.pth")


def save(content: object, path: Path) -> Path:
    """Save a checkpoint and say where."""
    torch.save(content, path)
    return path

"""Our networks against the reference implementation's own code, on one real face, with random weights.

Trained weights cannot be had everywhere; random ones use every layer. Each reference output must have spread, so that
two flat or saturated images cannot agree by accident.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest
import torch

from restoration import networks, torch_networks
from restoration.networks import Backbone, Device, Network, Precision

Images = npt.NDArray[np.uint8]
TORCH: tuple[Device, Precision] = ("cpu", "fp32")
"""The GPU's networks, tested where there is none; `networks` itself takes OpenVINO here."""
pytestmark = pytest.mark.reference


class ReferenceRestorer(Protocol):
    """The part of GFPGANer that is used here; its images are BGR."""

    def enhance(self, img: Images, has_aligned: bool) -> tuple[list[Images], list[Images], None]: ...


@pytest.fixture(scope="module")
def reference() -> types.SimpleNamespace:
    """The reference packages, imported with what they need and without their warnings."""
    functional = importlib.import_module("torchvision.transforms.functional")
    shim = types.ModuleType("torchvision.transforms.functional_tensor")  # gone since torchvision 0.17
    shim.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]  # a module made here
    sys.modules.setdefault(shim.__name__, shim)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gfpgan = pytest.importorskip(
            "gfpgan", reason="the reference implementation is not installed", exc_type=ImportError
        )
        realesrgan = pytest.importorskip("realesrgan", reason="the reference implementation is not installed")
        from basicsr.archs.rrdbnet_arch import RRDBNet
        from realesrgan.archs.srvgg_arch import SRVGGNetCompact
    return types.SimpleNamespace(gfpgan=gfpgan, realesrgan=realesrgan, rrdb=RRDBNet, compact=SRVGGNetCompact)


@pytest.fixture
def reference_restorer(
    reference: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path, str], ReferenceRestorer]:
    """Make the reference's GFPGANer without its detector and parser (it downloads them), noise from the checkpoint."""
    helper = "facexlib.utils.face_restoration_helper."
    monkeypatch.setattr(helper + "init_detection_model", lambda *_, **__: None)
    monkeypatch.setattr(helper + "init_parsing_model", lambda *_, **__: None)

    def make(path: Path, arch: str) -> ReferenceRestorer:
        restorer: Any = reference.gfpgan.GFPGANer(str(path), upscale=1, arch=arch, device=torch.device("cpu"))
        if arch == "clean":
            restorer.gfpgan.forward = functools.partial(restorer.gfpgan.forward, randomize_noise=False)
        return restorer  # type: ignore[no-any-return]  # the package has no types

    return make


def test_gfpgan_gives_the_reference_face_within_one_grey_level(
    face: Images,
    random_gfpgan: Path,
    randomly_restored: Images,
    reference_restorer: Callable[[Path, str], ReferenceRestorer],
) -> None:
    _, restored, _ = reference_restorer(random_gfpgan, "clean").enhance(face[..., ::-1], has_aligned=True)
    expected = restored[0][..., ::-1]
    assert_spread(expected)
    assert grey_levels_apart(randomly_restored, expected) <= 1
    in_torch = torch_networks.face_restorer(random_gfpgan, *TORCH)
    assert grey_levels_apart(in_torch(face[np.newaxis])[0], expected) <= 1


def test_restoreformer_gives_the_reference_face_within_one_grey_level(
    face: Images,
    random_restoreformer: Path,
    exact_restoreformer: Network,
    reference_restorer: Callable[[Path, str], ReferenceRestorer],
) -> None:
    restorer = reference_restorer(random_restoreformer, "RestoreFormer")
    _, restored, _ = restorer.enhance(face[..., ::-1], has_aligned=True)
    expected = restored[0][..., ::-1]
    assert_spread(expected)
    for network in (exact_restoreformer, torch_networks.face_restorer(random_restoreformer, *TORCH)):
        assert grey_levels_apart(network(face[np.newaxis])[0], expected) <= 1


def test_parser_gives_the_reference_labels(face: Images, random_parsenet: Path) -> None:
    """Labels may differ only where the reference's two best classes are equal to within rounding.

    A quarter of the face, to save time: the network is convolutions alone.
    """
    from facexlib.parsing.parsenet import ParseNet

    module = ParseNet(512, 512, parsing_ch=19).eval()
    module.load_state_dict(torch.load(random_parsenet, weights_only=True))
    part = face[128:384, 128:384]
    with torch.no_grad():
        logits = module(torch.tensor(part / 255, dtype=torch.float32).permute(2, 0, 1)[None].sub(0.5).div(0.5))[0][0]
    expected = logits.argmax(0).numpy()
    assert np.unique(expected).size >= 4

    best, second = logits.topk(2, dim=0).values
    clear = ((best - second) > 1e-5 * logits.std()).numpy()
    assert clear.mean() > 0.999
    for network in (networks.load_face_parser(random_parsenet), torch_networks.face_parser(random_parsenet, *TORCH)):
        answer = network(part[np.newaxis])[0]
        assert np.array_equal(answer[clear], expected[clear])


@pytest.mark.parametrize(("backbone", "their_name"), [("resnet50", "resnet50"), ("mobilenet0.25", "mobile0.25")])
def test_detector_gives_the_reference_raw_output(
    backbone: Backbone, their_name: str, astronaut: Images, random_checkpoints: Path
) -> None:
    """On a photo whose sides no stride divides, from a checkpoint with the published file's 'module.' prefixes."""
    from facexlib.detection.retinaface import RetinaFace

    photo = astronaut[:211, :277]
    with torch.random.fork_rng(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(5)
        module = RetinaFace(their_name, device="cpu")
        image, _ = module.transform(photo[..., ::-1], use_origin_size=True)
        boxes, scores, landmarks = module(image - module.mean_tensor)
    path = random_checkpoints / f"{backbone}.pth"
    torch.save({f"module.{name}": value for name, value in module.state_dict().items()}, path)

    for network in (networks.load_face_detector(path, backbone), torch_networks.face_detector(path, backbone, *TORCH)):
        for answer, theirs in zip(network(photo), (boxes[0], scores[0, :, 1], landmarks[0]), strict=True):
            expected = theirs.numpy()
            assert answer.shape == expected.shape
            assert expected.std() > 0
            np.testing.assert_allclose(answer, expected, rtol=1e-3, atol=1e-4 * expected.std())


def test_compact_upscaler_gives_the_reference_image_within_one_grey_level(
    face: Images, random_realesrgan: Path, reference: types.SimpleNamespace
) -> None:
    module = reference.compact(num_feat=64, num_conv=32, upscale=4, act_type="prelu")
    assert_upscaler_equals_reference(face[200:290, 180:301], random_realesrgan, reference, module, scale=4)


def test_rrdb_upscaler_gives_the_reference_image_within_one_grey_level(
    face: Images, random_checkpoints: Path, reference: types.SimpleNamespace
) -> None:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(6)
        module = reference.rrdb(num_in_ch=3, num_out_ch=3, scale=2, num_feat=64, num_block=23, num_grow_ch=32)
    path = random_checkpoints / "rrdb.pth"
    torch.save({"params_ema": module.state_dict()}, path)
    assert_upscaler_equals_reference(face[200:247, 180:241], path, reference, module, scale=2)


def assert_upscaler_equals_reference(
    photo: Images, path: Path, reference: types.SimpleNamespace, module: torch.nn.Module, scale: int
) -> None:
    theirs = reference.realesrgan.RealESRGANer(
        scale, str(path), model=module, pre_pad=0, half=False, device=torch.device("cpu")
    )
    expected = theirs.enhance(photo[..., ::-1])[0][..., ::-1]
    assert_spread(expected)

    for upscaler in (networks.load_upscaler(path), torch_networks.upscaler(path, *TORCH)):
        answer = upscaler(photo[np.newaxis])[0]
        assert upscaler.scale == scale
        assert answer.shape == (scale * photo.shape[0], scale * photo.shape[1], 3)
        assert grey_levels_apart(answer, expected) <= 1


def assert_spread(image: Images) -> None:
    """Most pixels lie between the ends of the range, and they differ."""
    assert image.std() > 15
    assert ((image > 0) & (image < 255)).mean() > 0.5


def grey_levels_apart(one: Images, other: Images) -> int:
    """The largest difference of two images of one shape."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())
